# SPDX-License-Identifier: GPL-2.0-or-later
"""USB without hardware: a drive that a SPICE client makes up, and devices of a machine handed to another."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hafw_lab.client.lab import Lab
from hafw_lab.desktop.usb_plugs import Device
from hafw_lab.errors import LabError
from hafw_lab.verbs import usb
from tests.checkout import ROOT
from tests.desktop.conftest import LAB
from tests.vm.guests import shell, wait_until

GIVER, TAKER = "omarine", "client"
TABLET = "0627:0001"
COMMAND = (sys.executable, "-P", "-m", "hafw_lab", "usb")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}"}


def type_usb(*words: str) -> str:
    """What a person types; its output."""
    argv = [*COMMAND, *words, "--name", LAB]
    return subprocess.run(argv, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


def find_tablets(lab: Lab, name: str) -> list[Device]:
    return [one for one in usb.find_devices(lab, name) if one.kind == TABLET]


def driver_of_tablet(lab: Lab, name: str) -> str:
    script = f"cd /sys/bus/usb/devices && d=$(dirname $(grep -l {TABLET[:4]} */idVendor)) && "
    return shell(lab, name, script + "basename $(readlink $d/$d:1.0/driver)").strip()


def read_tablets(lab: Lab, name: str) -> list[str]:
    """The hashes of what its tablets say of themselves, as its kernel has read it from them."""
    script = f"sha256sum /sys/bus/hid/devices/*:{TABLET.upper()}.*/report_descriptor"
    return [line.split()[0] for line in shell(lab, name, script).splitlines()]


def read_drive(lab: Lab, name: str) -> str:
    """The hash of what its CD drive has; empty without a drive."""
    return shell(lab, name, "sha256sum </dev/sr0 2>/dev/null || true").partition(" ")[0]


@contextmanager
def hand_drive_over(lab: Lab, name: str, content: Path) -> Iterator[None]:
    """A viewer's drive in the machine, for the length of the block."""
    desktop = lab.machine(name).desktop
    program = ROOT / "tests" / "desktop" / "shared_cd.py"
    argv = [sys.executable, str(program), str(desktop.socket), str(content)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as viewer:
        assert viewer.stdin
        assert viewer.stdout
        try:
            viewer.stdin.write(desktop.make_ticket(300).password + "\n")
            viewer.stdin.flush()
            assert viewer.stdout.readline() == "handed over\n"
            yield
        finally:
            viewer.stdin.close()


@pytest.fixture
def drive(tmp_path: Path) -> tuple[Path, str]:
    """Something like a CD, and its hash."""
    content = random.Random(5).randbytes(2048 * 500)
    path = tmp_path / "content.iso"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def test_a_device_goes_to_another_machine_and_comes_back(desktops: Lab) -> None:
    assert driver_of_tablet(desktops, GIVER) == "usbhid"
    (tablet,) = find_tablets(desktops, GIVER)
    words = read_tablets(desktops, GIVER)
    said = type_usb("attach", TAKER, tablet.place, "--from", GIVER)
    assert f"{TAKER} has {tablet.place}" in said
    wait_until("the other machine has two", lambda: len(find_tablets(desktops, TAKER)) == 2)
    wait_until(
        "it works there as one",
        lambda: (
            shell(desktops, TAKER, "grep -c 'QEMU USB Tablet' /proc/bus/input/devices || true").strip()
            == "2"
        ),
    )
    assert read_tablets(desktops, TAKER) == words * 2, "its own, and the other one, read over usbredir"
    assert driver_of_tablet(desktops, GIVER) == "usbfs"
    (attached,) = json.loads(type_usb("list", "--json"))["attached"]
    assert attached["node"] == TAKER
    assert attached["device"]["origin"] == GIVER
    with pytest.raises(subprocess.CalledProcessError) as twice:
        type_usb("attach", TAKER, TABLET, "--from", GIVER)
    assert "has it already" in twice.value.stderr
    type_usb("detach", TAKER, TABLET)
    wait_until("the other machine has one", lambda: len(find_tablets(desktops, TAKER)) == 1)
    assert driver_of_tablet(desktops, GIVER) == "usbhid"
    assert not json.loads(type_usb("list", "--json"))["attached"]


def test_a_drive_of_a_viewer_is_read_in_two_machines(desktops: Lab, drive: tuple[Path, str]) -> None:
    path, digest = drive
    with hand_drive_over(desktops, GIVER, path):
        wait_until("the drive is there", lambda: read_drive(desktops, GIVER) == digest)
        # For the machine it is a device like any other, so it can be handed on.
        (found,) = [one for one in usb.find_devices(desktops, GIVER) if one.kind != TABLET]
        usb.attach(desktops, TAKER, found)
        wait_until("the other machine reads the same", lambda: read_drive(desktops, TAKER) == digest)
        assert read_drive(desktops, GIVER) == ""
        usb.plugs_of(desktops, TAKER).detach(found)
        wait_until("it is gone there", lambda: read_drive(desktops, TAKER) == "")
        wait_until("and is back", lambda: read_drive(desktops, GIVER) == digest)
    wait_until("the viewer has taken it away", lambda: read_drive(desktops, GIVER) == "")


def test_what_is_not_there_is_said(desktops: Lab) -> None:
    (tablet,) = find_tablets(desktops, GIVER)
    gone = Device(1, 99, "dead", "beef", "(no name)", open=True, origin=tablet.origin)
    with pytest.raises(LabError, match="cannot be handed over"):
        usb.attach(desktops, TAKER, gone)
    assert not usb.find_all_held(desktops)
