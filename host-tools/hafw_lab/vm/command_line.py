# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of a machine's qemu. Pure.

Hard facts
* Files are named relative to qemu's working directory: the same machine has the same command line wherever
  its lab's directory is.
* The base image is passed as a descriptor, since qemu runs as a user that need not be able to reach its
  path; the sockets too, since one that listens before qemu starts need not be waited for.
* `-nodefaults` takes away qemu's own network, disks and screens. There is no `-no-reboot`: a guest that
  reboots does so within its qemu, as a real machine would.
* cache.no-flush: what the guest has written is in the host's page cache, which a killed qemu does not take
  with it. Only a crash of the host itself could lose it.
"""

import shlex
from dataclasses import dataclass
from enum import Enum

from hafw_lab.plan.values import Machine, NodePlan
from hafw_lab.programs import QEMU
from hafw_lab.vm import display

KERNEL, INITRD = "../vmlinuz", "../initrd"
OVERLAY, CONSOLE_LOG = "disk.qcow2", "console.log"
"""What qemu writes, in the directory that is its own."""
SSH_PORT, AGENT_PORT = "ssh0", "qga0"
"""The ids of the two serial ports, as VSERPORT_CHANGE names them."""
DISK = "disk"
"""The node name of the overlay, for snapshots."""
_BASE_SET = 1
_LOGGED = f",logfile={CONSOLE_LOG},logappend=on"


class Accelerator(Enum):
    KVM = "kvm"
    TCG = "tcg"
    """qemu's own translation: ten times slower, runs everywhere."""


@dataclass(frozen=True, slots=True)
class Wires:
    """Descriptors that qemu inherits: the base image, the taps in the order of the node's cables, and
    sockets that listen already."""

    base: int
    taps: tuple[int, ...]
    qmp: int
    console: int
    agent: int
    ssh: int
    password: int | None = None
    """Of a screen, if the machine has one."""

    def descriptors(self) -> tuple[int, ...]:
        always = (self.base, *self.taps, self.qmp, self.console, self.agent, self.ssh)
        return always if self.password is None else (*always, self.password)


def link_id(name: str) -> str:
    """What QMP calls the node's interface `name`."""
    return f"nic-{name}"


def plan_qemu(plan: NodePlan, accelerator: Accelerator, wires: Wires | None, *, halted: bool) -> list[str]:
    """With `halted` the machine waits for a snapshot to be loaded. Without `wires` it is for a person: the
    base is named by its path and the interfaces lead nowhere."""
    machine = plan.machine
    assert machine is not None
    return [
        *(QEMU, "-name", f"guest={plan.name},debug-threads=on", "-nodefaults", "-no-user-config"),
        *("-machine", "q35,usb=off,vmport=off,smm=off,hpet=off", *plan_accelerator(accelerator)),
        *("-smp", "1", "-m", str(machine.memory_mb), "-display", "none", "-vga", "none"),
        *plan_sandbox(),
        *("-kernel", KERNEL, "-initrd", INITRD, "-append", kernel_line(machine)),
        *_disk(machine, wires),
        *_channels(wires),
        *display.plan_screen(machine, wires.password if wires else None),
        *_interfaces(plan, wires),
        *(("-S",) if halted else ()),
    ]


def plan_accelerator(accelerator: Accelerator) -> tuple[str, ...]:
    if accelerator is Accelerator.KVM:
        return ("-accel", "kvm", "-cpu", "host")
    # tb-size in MB: what is kept of translated code; by default it grows to twice the memory of the guest
    return ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max")


def plan_sandbox() -> tuple[str, ...]:
    denied = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
    return ("-sandbox", ",".join(("on", *(f"{one}=deny" for one in denied))))


def kernel_line(machine: Machine) -> str:
    return f"root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet {machine.append}".rstrip()


def _disk(machine: Machine, wires: Wires | None) -> tuple[str, ...]:
    if wires is None:
        base = escape(machine.disk)
        passed: tuple[str, ...] = ()
    else:
        base = f"/dev/fdset/{_BASE_SET}"
        passed = ("-add-fd", f"fd={wires.base},set={_BASE_SET}")
    cache = "cache.direct=off,cache.no-flush=on"
    return (
        *passed,
        *("-blockdev", f"driver={machine.disk_format},node-name=base,read-only=on,file.driver=file,"
          f"file.locking=off,file.filename={base}"),
        *("-blockdev", f"driver=qcow2,node-name={DISK},backing=base,discard=unmap,{cache},"
          f"file.driver=file,file.filename={OVERLAY}"),
        *("-device", f"virtio-blk-pci,drive={DISK},serial={DISK}"),
    )  # fmt: skip


def _channels(wires: Wires | None) -> tuple[str, ...]:
    def listen(name: str, descriptor: int | None) -> str:
        where = f"path={name}.sock" if descriptor is None else f"fd={descriptor}"
        return f"socket,id={name},{where},server=on,wait=off"

    def port(number: int, chardev: str, name: str, title: str) -> str:
        return f"virtserialport,bus=vser.0,nr={number},chardev={chardev},id={name},name={title}"

    return (
        *("-chardev", listen("qmp", wires.qmp if wires else None), "-mon", "chardev=qmp,mode=control"),
        *(
            "-chardev",
            f"{listen('con', wires.console if wires else None)},logfile={CONSOLE_LOG},logappend=on",
        ),
        *("-serial", "chardev:con"),
        *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
        *("-device", "virtio-serial-pci,id=vser,max_ports=8"),
        *("-chardev", listen("qga", wires.agent if wires else None)),
        *("-device", port(1, "qga", AGENT_PORT, "org.qemu.guest_agent.0")),
        *("-chardev", listen("ssh", wires.ssh if wires else None)),
        *("-device", port(2, "ssh", SSH_PORT, "org.hafw.ssh.0")),
    )


def _interfaces(plan: NodePlan, wires: Wires | None) -> list[str]:
    found = []
    for number, cable in enumerate(plan.cables):
        name = link_id(cable.name)
        far = f"hubport,id=net{number},hubid={number}"
        if wires is not None:
            far = f"tap,id=net{number},fd={wires.taps[number]}"
        found += ["-netdev", far]
        found += ["-device", f"virtio-net-pci,id={name},netdev=net{number},mac={cable.mac},romfile="]
    return found


def escape(text: str) -> str:
    """A value within a comma separated option."""
    return text.replace(",", ",,")


def write_by_hand(plan: NodePlan, accelerator: Accelerator, directory: str) -> str:
    """A shell script for a person who wants to start this machine alone."""
    command = ""
    for word in plan_qemu(plan, accelerator, None, halted=False):
        command += (" \\\n    " if word.startswith("-") else " ") + shlex.quote(word)
    return (
        "#!/bin/sh\n"
        f"# The machine {plan.name} of a lab of hafw, by hand, while it is switched off there. Its\n"
        "# interfaces lead nowhere, since only the lab can plug them into its bridges. Its console:\n"
        "# socat -,rawer,escape=0x1d UNIX-CONNECT:con.sock\n"
        f"cd {shlex.quote(directory)} || exit 1\n"
        f"{display.write_by_hand(plan.machine)}"
        f"exec{command}\n"
    )
