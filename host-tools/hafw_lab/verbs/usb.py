# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab usb`: USB devices of this machine, or of a machine of the lab, handed to a machine of the lab.

Each device is served by a process of its own (usb_export.py) to a plug of the machine, and goes back when it
is detached, when the machine is switched off and when the lab ends. It does not need a viewer, and an open
one does not mind; what a viewer hands over itself is its own business and is not listed here.
"""

import argparse
import getpass
import json
import re
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from hafw_lab.arguments.common import add_lab_argument
from hafw_lab.client import registry
from hafw_lab.client.lab import Lab
from hafw_lab.desktop import usb_devices, usb_export
from hafw_lab.desktop.usb_plugs import Device, Held, Plugs
from hafw_lab.errors import LabError
from hafw_lab.process import ENVIRONMENT
from hafw_lab.spoken import show, show_json

_PLACE = re.compile(r"(\d+)[.-](\d+)")
_KIND = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
_PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="usb", required=True, metavar="list|attach|detach")
    listing = verbs.add_parser("list", help="list the devices and where they are")
    listing.add_argument("--json", action="store_true", help="for programs")
    attach = verbs.add_parser("attach", help="hand a device to a machine")
    detach = verbs.add_parser("detach", help="take the device back from the machine")
    for verb in (attach, detach):
        verb.add_argument("node")
        verb.add_argument(
            "device", metavar="DEVICE", help="bus.device or vendor:product, as list shows them"
        )
    for verb in (listing, attach, detach):
        verb.add_argument(
            "--from",
            dest="origin",
            default="",
            metavar="NODE",
            help="devices of that machine instead of this one's",
        )
        add_lab_argument(verb)


def run(args: argparse.Namespace) -> int:
    """Raises LabError."""
    if args.usb == "list" and not args.origin and args.name not in registry.find_names():
        _list(args, None)
        return 0
    lab = registry.attach(args.name)
    try:
        {"list": _list, "attach": _attach, "detach": _detach}[args.usb](args, lab)
    finally:
        lab.close()
    return 0


def _list(args: argparse.Namespace, lab: Lab | None) -> None:
    devices = find_devices(lab, args.origin)
    held = find_all_held(lab) if lab else {}
    if args.json:
        places = [
            {"node": name, "device": asdict(one.device)} for name, all_ in held.items() for one in all_
        ]
        show_json({"devices": [asdict(one) for one in devices], "attached": places})
        return
    for one in devices:
        notes = [] if one.open else ["not open to this user"]
        notes += [f"in use at {place}" for place in one.mounted]
        show(f"{one.place:7} {one.kind}  {one.name}{': ' if notes else ''}{', '.join(notes)}")
    if not devices:
        show(f"{args.origin or 'this machine'} has no USB devices")
    for name, all_ in held.items():
        for holding in all_:
            show(f"{name} has {holding.device}")


def _attach(args: argparse.Namespace, lab: Lab) -> None:
    device = choose_device(args.device, find_devices(lab, args.origin))
    for name, all_ in find_all_held(lab).items():
        if any(held.device.place == device.place and held.device.origin == device.origin for held in all_):
            raise LabError(f"{name} has it already", f"hafw-lab usb detach {name} {args.device}")
    check_usable(device)
    attach(lab, args.node, device)
    show(f"{args.node} has {device}")


def _detach(args: argparse.Namespace, lab: Lab) -> None:
    plugs = plugs_of(lab, args.node)
    devices = [held.device for held in plugs.find_held()]
    if args.origin:
        devices = [device for device in devices if device.origin == args.origin]
    device = choose_device(args.device, devices)
    plugs.detach(device)
    show(f"{device} is returned")


# -- what the verbs are made of --


def plugs_of(lab: Lab, name: str) -> Plugs:
    return Plugs(name, lab.machine(name).directory)


def find_all_held(lab: Lab) -> dict[str, list[Held]]:
    """What is handed over, by machine."""
    return {name: held for name in lab.machines if (held := plugs_of(lab, name).find_held())}


def find_devices(lab: Lab | None, origin: str) -> list[Device]:
    """Of this machine, or of the machine `origin` of the lab. Raises LabError."""
    if lab is None or not origin:
        found = usb_devices.find_devices()
    else:
        argv = [*_PYTHON, Path(usb_devices.__file__).read_text(encoding="utf-8")]
        found = json.loads(lab.machine(origin).run(argv).stdout)
    return [Device(**{**one, "mounted": tuple(one["mounted"])}, origin=origin) for one in found]


def choose_device(text: str, devices: Iterable[Device]) -> Device:
    """The one that is meant. Raises LabError."""
    place, kind = _PLACE.fullmatch(text), _KIND.fullmatch(text.lower())
    if not place and not kind:
        raise LabError(
            f"{text!r} is not a USB device", "write it as 1.4 or as 0951:1666; see hafw-lab usb list"
        )
    wanted = f"{int(place[1])}.{int(place[2])}" if place else text.lower()
    found = [one for one in devices if wanted in (one.place, one.kind)]
    if not found:
        raise LabError(f"no USB device {text}", "see hafw-lab usb list")
    if len(found) > 1:
        places = ", ".join(one.place for one in found)
        raise LabError(f"there are several devices {text}, at {places}", "name one by its place")
    return found[0]


def check_usable(device: Device) -> None:
    """Raises LabError with the command that helps."""
    if device.mounted:
        raise LabError(f"{device} is in use at {device.mounted[0]}", f"umount {' '.join(device.mounted)}")
    if not device.open:
        raise LabError(
            f"{device} is not open to this user", f"type once: {compose_command(device, getpass.getuser())}"
        )


def compose_command(device: Device, user: str) -> str:
    """What gives the user the device, now and whenever it is plugged in."""
    match = f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{device.vendor}", ATTR{{idProduct}}=="{device.product}"'
    rule = f"echo '{match}, OWNER=\"{user}\"' | sudo tee -a /etc/udev/rules.d/70-hafw-lab-usb.rules"
    return f"{rule}; sudo udevadm control --reload; sudo udevadm trigger --subsystem-match=usb"


def attach(lab: Lab, name: str, device: Device) -> None:
    """Hand it over; a process that stays behind does so until it is detached. Raises LabError."""
    source = Path(usb_export.__file__).read_text(encoding="utf-8")
    argv = [*_PYTHON, source, f"{device.bus}-{device.device}"]

    def start(line: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            lab.machine(device.origin).enter_argv(argv) if device.origin else argv,
            stdin=line.fileno(),
            stdout=line.fileno(),
            stderr=subprocess.PIPE,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )

    plugs_of(lab, name).attach(device, start)
