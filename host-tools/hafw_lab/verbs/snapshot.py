# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab snapshot`: a whole lab of machines as it was at one moment, saved in the cache."""

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from hafw_lab.arguments.common import add_lab_argument, add_late_lab_argument
from hafw_lab.cache import cache_dir
from hafw_lab.client import registry
from hafw_lab.errors import LabError
from hafw_lab.plan.values import LabPlan, NodePlan
from hafw_lab.process import run as run_program
from hafw_lab.programs import QEMU
from hafw_lab.spoken import say, show
from hafw_lab.vm import command_line
from hafw_lab.vm.command_line import Accelerator

_ABOUT = "lab.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_lab_argument(parser)
    orders = parser.add_subparsers(dest="order", required=True, metavar="WHAT")
    for order, text in (
        ("save", "save the running lab, which continues"),
        ("load", "start a lab as it was saved, within seconds"),
        ("rm", "remove a snapshot"),
    ):
        one = orders.add_parser(order, help=text)
        one.add_argument("snapshot", metavar="SNAPSHOT")
        if order != "rm":  # also after the order, where one looks for it
            add_late_lab_argument(one)
    orders.add_parser("list", help="list the snapshots")


def run(args: argparse.Namespace) -> int:
    match args.order:
        case "save":
            save(args.name, args.snapshot)
        case "load":
            load(args.name, args.snapshot)
        case "rm":
            shutil.rmtree(_require(args.snapshot))
        case _:
            for path in sorted(_room().glob(f"*/{_ABOUT}")):
                size = sum(file.stat().st_blocks * 512 for file in path.parent.iterdir())
                show(f"{path.parent.name:20} {size / 1e6:6.0f} MB")
    return 0


def save(name: str, snapshot: str) -> None:
    """Raises LabError; then nothing is kept."""
    place = _place(snapshot)
    if place.exists():
        raise LabError(f"there is a snapshot {snapshot!r} already", f"hafw-lab snapshot rm {snapshot}")
    lab = registry.attach(name)
    place.mkdir(mode=0o700, parents=True)
    try:
        facts = lab.save(place)
        plan = LabPlan.from_json(facts["plan"])
        keys = {
            node.name: compute_key(node, Accelerator(facts["accelerators"][node.name]))
            for node in plan.nodes
            if node.machine
        }
        (place / _ABOUT).write_text(json.dumps({"plan": plan.to_json(), "keys": keys}), encoding="utf-8")
    except BaseException:  # half a snapshot is of no use, and it is large
        shutil.rmtree(place)
        raise
    text = f"saved as {snapshot!r}; hafw-lab snapshot load {snapshot} restores it"
    say(text, name)


def load(name: str, snapshot: str) -> None:
    """Raises LabError when it does not fit this machine and these images any more."""
    place = _require(snapshot)
    about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
    plan = LabPlan.from_json(about["plan"])
    for node in plan.nodes:
        if node.machine and about["keys"][node.name] not in (compute_key(node, one) for one in Accelerator):
            text = f"snapshot {snapshot!r} was made with another qemu or another image of {node.name}"
            raise LabError(text, f"hafw-lab snapshot rm {snapshot}; then up --vm, and save again")
    registry.up_plan(
        name, replace(plan, name=name, nodes=tuple(_warm(node, place) for node in plan.nodes)), say
    )
    say("the lab is up again, as it was saved")


def _warm(node: NodePlan, place: Path) -> NodePlan:
    if node.machine is None:
        return node
    return replace(node, machine=replace(node.machine, snapshot=str(place / f"{node.name}.qcow2")))


def compute_key(node: NodePlan, accelerator: Accelerator) -> str:
    """What has to be the same for a snapshot to be loaded. Raises LabError."""
    assert node.machine is not None
    version = run_program([QEMU, "-version"]).splitlines()[0]
    disk = Path(node.machine.disk)
    stamp = disk.stat().st_mtime_ns if disk.exists() else None
    argv = command_line.plan_qemu(
        replace(node, machine=replace(node.machine, snapshot="")), accelerator, None, halted=False
    )
    return json.dumps([version, node.machine.image_key, stamp, argv])


def _room() -> Path:
    return cache_dir() / "snapshots"


def _place(snapshot: str) -> Path:
    if not snapshot or snapshot.startswith(".") or os.sep in snapshot:
        raise LabError(f"{snapshot!r} is not a valid name for a snapshot", "use letters, digits and hyphens")
    return _room() / snapshot


def _require(snapshot: str) -> Path:
    place = _place(snapshot)
    if not (place / _ABOUT).exists():
        raise LabError(f"there is no snapshot {snapshot!r}", "hafw-lab snapshot list shows what there is")
    return place
