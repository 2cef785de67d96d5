# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab export`: the machines and networks of the lab as libvirt's definitions, with their disks."""

import argparse
import shutil
from pathlib import Path

from agent.adapters.openssl import make_pair_key
from agent.arguments import parse_path
from hafw_lab.arguments.machines import DEFAULT_RELEASE, RELEASES
from hafw_lab.compose import lab, machines
from hafw_lab.errors import LabError
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import Topology
from hafw_lab.model.topology_file import choose_topology
from hafw_lab.plan.values import Machine, NodePlan
from hafw_lab.process import run as run_program
from hafw_lab.progress import Progress
from hafw_lab.spoken import say, show
from hafw_lab.verbs import libvirt
from hafw_lab.vm.accelerator import find_obstacle
from hafw_lab.vm.command_line import kernel_line
from hafw_lab.vm.files import compose_initrd, copy_sparse

_HOW = """\
libvirt definitions of a hafw lab. They name the disks where this directory is; change the
paths in the files when you move it. On the machine that is to run them, as root:

  hafw-lab render host --output / && networkctl reload      the bridges
  for f in network-*.xml; do virsh net-define $f; done
  for n in {networks}; do virsh net-start $n; virsh net-autostart $n; done
  for f in domain-*.xml; do virsh define $f; done
  virsh start {first}

Another hypervisor takes the disks (qcow2; `qemu-img convert` makes one stand alone), kernel and initrd as
they are. Give each machine its interfaces in the order and with the hardware addresses of the files.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=parse_path, metavar="DIR")
    parser.add_argument(
        "--release", default=DEFAULT_RELEASE, choices=RELEASES, help=f"default: {DEFAULT_RELEASE}"
    )
    parser.add_argument(
        "--kvm",
        action=argparse.BooleanOptionalAction,
        help="for a host with KVM, or without (default: as this one is)",
    )
    parser.add_argument(
        "--no-screen", dest="screen", action="store_false", help="without SPICE screen and USB"
    )
    parser.add_argument(
        "--topology", type=parse_path, metavar="FILE", help="another topology than the built-in one"
    )


def run(args: argparse.Namespace) -> int:
    """Raises LabError when the directory holds something already or cannot be written."""
    topology = choose_topology(args.topology)
    args.kvm = choose_kvm(args.kvm, find_obstacle(), say)
    home = _make_directory(args.directory)
    options = LabOptions(machines={node.name: args.release for node in topology.nodes})
    plan = lab.plan_lab("export", topology, options, privileged=True)
    plan = machines.add_machines(plan, topology, options, say, key=make_pair_key(), elsewhere=True)
    _copy_base(plan.nodes[0], home)
    for segment in topology.segments:
        (home / f"network-{segment.name}.xml").write_text(libvirt.network_xml(segment), encoding="utf-8")
    for node in plan.nodes:
        _export_machine(node, topology, home, args)
    networks = " ".join(libvirt.network_name(segment) for segment in topology.segments)
    first = topology.firewalls[0].name
    (home / "README").write_text(_HOW.format(networks=networks, first=first), encoding="utf-8")
    for path in sorted(home.iterdir()):
        show(str(path))
    return 0


def choose_kvm(wanted: bool | None, obstacle: str | None, say: Progress) -> bool:
    """Whether the definitions ask for KVM; `obstacle` is what keeps this machine from it."""
    if wanted is None and obstacle is not None:
        say(f"without KVM, as on this machine: {obstacle}; --kvm is for another one that has it")
    return obstacle is None if wanted is None else wanted


def _make_directory(directory: Path) -> Path:
    home = directory.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        if any(home.iterdir()):
            raise LabError(f"{home} is not empty", "export into a directory of its own")
    except OSError as error:
        raise LabError(f"cannot make {home}: {error.strerror}", "choose another directory") from error
    return home


def _copy_base(node: NodePlan, home: Path) -> None:
    machine = _machine_of(node)
    say("copying the base disk and the kernel")
    try:
        copy_sparse(Path(machine.disk), home / "base")  # most of it is holes
        shutil.copyfile(machine.kernel, home / "vmlinuz")
    except OSError as error:
        raise LabError(f"cannot write into {home}: {error.strerror}", "is there room?") from error


def _export_machine(node: NodePlan, topology: Topology, home: Path, args: argparse.Namespace) -> None:
    machine, spec = _machine_of(node), topology.node(node.name)
    assert spec is not None
    disk, initrd = home / f"{node.name}.qcow2", home / f"initrd-{node.name}"
    run_program(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", machine.disk_format, str(disk)]
    )
    initrd.write_bytes(compose_initrd(machine))
    boot = libvirt.Boot(disk, "qcow2", home / "vmlinuz", initrd, kernel_line(machine))
    text = libvirt.domain_xml(spec, topology.segments, boot, kvm=args.kvm, desktop=args.screen)
    (home / f"domain-{node.name}.xml").write_text(text, encoding="utf-8")


def _machine_of(node: NodePlan) -> Machine:
    assert node.machine is not None, "every node of an export is a machine"
    return node.machine
