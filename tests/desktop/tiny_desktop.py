# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with a screen and a kernel of a few bytes. Also a program, for a test that kills it:

python3 -m tests.desktop.tiny_desktop DIRECTORY
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.kernel.rtnetlink import LinkSwitch
from hafw_lab.lab_directory import make_lab_directory
from hafw_lab.plan.values import Bridge, LabPlan
from hafw_lab.supervisor.machine_node import PoweredMachine
from hafw_lab.vm.command_line import Accelerator
from hafw_lab.vm.spice import open_doors
from tests.netns.tiny_machine import WORD, make_plan

PATIENCE_S = 120.0


@asynccontextmanager
async def start_tiny(
    directory: Path, remote: str = "", video: str = "qxl", snapshot: str = ""
) -> AsyncIterator[PoweredMachine]:
    plan = make_plan(directory)
    assert plan.machine is not None
    screen = replace(plan.machine, video=video, remote=remote, snapshot=snapshot)
    plan = replace(plan, cables=(), machine=screen)
    doors = open_doors(LabPlan("tiny", (Bridge("br0", ""),), (plan,), (), (), {}))
    place = make_lab_directory()
    machine = PoweredMachine(
        plan, place.path, Accelerator.TCG, LinkSwitch(), lambda: None, doors.get("tiny")
    )
    phases: list[str] = []
    boot = asyncio.create_task(machine.boot(phases.append))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while WORD not in machine.files.read_console() and "snapshot loaded" not in phases:
                if boot.done():
                    boot.result()
                await asyncio.sleep(0.05)  # a file that grows gives no notice
        yield machine
    finally:
        machine.end()
        with contextlib.suppress(LabError):  # it does not come up: that is so
            await boot
        await machine.wait_if_dying()
        place.remove()
        for door in doors.values():
            door.close()


async def live(directory: Path) -> None:
    async with start_tiny(directory, remote="127.0.0.1") as machine:
        assert machine.screen is not None
        remote = machine.screen.describe_remote()
        assert remote is not None
        facts = {
            "qemu": machine.pid,
            "port": remote["port"],
            "directory": str(machine.files.directory.parent),
        }
        print(json.dumps(facts), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
