# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine whose kernel is a few bytes: says a word on its console and halts. Run inside a network
namespace of its own by test_machine.py; prints one JSON object a line.

    python3 -m tests.netns.tiny_machine DIRECTORY
"""

import asyncio
import json
import struct
import sys
from dataclasses import replace
from pathlib import Path

from hafw_lab import lab_directory
from hafw_lab.errors import LabError
from hafw_lab.kernel.rtnetlink import LinkSwitch
from hafw_lab.model.fault import PAUSE, POWER
from hafw_lab.plan import fabric
from hafw_lab.plan.values import Bridge, Cable, Machine, NodePlan
from hafw_lab.process import run, run_ip
from hafw_lab.supervisor.machine_node import PoweredMachine
from hafw_lab.vm.command_line import Accelerator

WORD = "tiny kernel runs"


def make_kernel() -> bytes:
    """The least that qemu takes for a Linux kernel (Documentation/arch/x86/boot.rst)."""
    code = b"\xba\xf8\x03"  # mov dx, 0x3f8: the first serial port
    for letter in f"{WORD}\r\n".encode():
        code += b"\xb0" + bytes([letter]) + b"\xee"  # mov al, letter; out dx, al
    code += b"\xf4\xeb\xfd"  # hlt, again and again
    setup = bytearray(1024)
    setup[0x1F1] = 1  # one sector of set-up code follows the boot sector
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x200:0x202] = b"\xeb\x7e"  # over the header, to 0x280
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = struct.pack("<H", 0x0203)
    setup[0x22C:0x230] = struct.pack("<I", 0x37FFFFFF)  # where an initrd may end
    setup[0x280 : 0x280 + len(code)] = code
    return bytes(setup) + bytes(512)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def make_plan(directory: Path, name: str = "tiny") -> NodePlan:
    for file, content in (("vmlinuz", make_kernel()), ("initrd", b"abc"), ("disk.raw", bytes(1 << 20))):
        (directory / file).write_bytes(content)
    images = {file: str(directory / file) for file in ("initrd", "vmlinuz")}
    machine = Machine(
        release="none",
        kernel=images["vmlinuz"],
        initrd=images["initrd"],
        disk=str(directory / "disk.raw"),
        disk_format="raw",
        image_key="",
        ssh_key="",
        seed="c2VlZA==",
        memory_mb=64,
    )
    cable = Cable("eth0", "52:54:00:00:00:01", f"{name}.eth0", "52:54:00:00:01:01", "br0")
    return NodePlan(name, firewall=False, cables=(cable,), machine=machine)


async def live(directory: Path) -> None:
    place = lab_directory.make_lab_directory()
    run_ip(fabric.plan_bridges([Bridge("br0", "52:54:00:00:02:01")]))
    machine = PoweredMachine(make_plan(directory), place.path, Accelerator.TCG, LinkSwitch(), lambda: None)
    phases: list[str] = []
    boot = asyncio.create_task(machine.boot(phases.append))
    while WORD not in machine.files.read_console():
        if boot.done():
            boot.result()
        await asyncio.sleep(0.05)  # a file that grows gives no notice
    say(ran=machine.pid, directory=str(place.path))
    say(ports=run(["bridge", "link", "show"]), initrd=(machine.files.own / "../initrd").read_bytes().hex())
    await machine.set_link("eth0", up=False)
    await machine.inject(PAUSE)
    say(down=sorted(machine.down_links), paused=machine.paused, alive=machine.alive)
    sys.stdin.readline()  # the test may kill us here
    kept = directory / "kept.qcow2"
    await machine.save(kept)
    say(kept=kept.stat().st_size > 0)
    await machine.inject(POWER)
    say(blocked=run(["bridge", "link", "show"]))
    try:
        await boot
    except LabError as error:
        say(error=str(error), phases=phases, alive=machine.alive)
    await machine.wait_if_dying()
    say(overlay=machine.files.disk.exists())
    await come_back(machine.plan, kept, place.path)
    place.remove()


async def come_back(plan: NodePlan, kept: Path, place: Path) -> None:
    """The same machine from its snapshot, which has said its word already."""
    assert plan.machine is not None
    # the taps of the first one are there until it boots again
    cables = tuple(replace(cable, fabric=f"warm.{cable.name}") for cable in plan.cables)
    warm = replace(plan, name="warm", cables=cables, machine=replace(plan.machine, snapshot=str(kept)))
    machine = PoweredMachine(warm, place, Accelerator.TCG, LinkSwitch(), lambda: None)
    loaded = asyncio.Event()
    phases: list[str] = []

    def tell(phase: str) -> None:
        phases.append(phase)
        if phase == "snapshot loaded":
            loaded.set()

    boot = asyncio.create_task(machine.boot(tell))
    await asyncio.wait((boot, asyncio.create_task(loaded.wait())), return_when=asyncio.FIRST_COMPLETED)
    say(phases=phases, alive=machine.alive, console=machine.files.read_console())
    machine.end()
    await asyncio.wait((boot,))
    say(end=str(boot.exception()))


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
