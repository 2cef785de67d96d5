# SPDX-License-Identifier: GPL-2.0-or-later
"""USB devices: what is read of the machine, what is meant, and what opens a closed door."""

from dataclasses import replace
from pathlib import Path

import pytest

from hafw_lab.desktop.usb_devices import find_devices
from hafw_lab.desktop.usb_plugs import Device
from hafw_lab.errors import LabError
from hafw_lab.plan.values import Machine
from hafw_lab.verbs import usb
from hafw_lab.vm.display import PLUGS, plan_screen, plug_socket

STICK = Device(1, 4, "0951", "1666", "Kingston DataTraveler", open=True)
TWIN = replace(STICK, device=5)
TABLET = Device(2, 4, "0627", "0001", "QEMU USB Tablet", open=True)


def make_bus(root: Path) -> tuple[Path, Path]:
    """What the kernel shows of a hub, a stick and the stick's interface; and the stick's device file."""
    stick = {"bDeviceClass": "00", "busnum": "1", "devnum": "12", "idVendor": "0951", "idProduct": "1666"}
    hub = {**stick, "bDeviceClass": "09", "devnum": "1"}
    for name, facts in {"1-2": {**stick, "product": "DataTraveler"}, "usb1": hub}.items():
        (root / "sys" / name).mkdir(parents=True)
        for key, value in facts.items():
            (root / "sys" / name / key).write_text(f"{value}\n")
    (root / "sys" / "1-2:1.0").mkdir()
    (root / "dev" / "001").mkdir(parents=True)
    (root / "dev" / "001" / "012").write_text("")
    return root / "sys", root / "dev"


def test_devices_without_hubs_and_interfaces(tmp_path: Path) -> None:
    sys_bus, dev = make_bus(tmp_path)
    (found,) = find_devices(sys_bus, dev)
    assert found == {
        "bus": 1,
        "device": 12,
        "vendor": "0951",
        "product": "1666",
        "name": "DataTraveler",
        "open": True,
        "mounted": [],
    }
    (dev / "001" / "012").unlink()
    assert not find_devices(sys_bus, dev)[0]["open"]


@pytest.mark.parametrize(
    ("disk", "source", "used"),
    [
        ("sda", "/dev/sda1", True),
        ("sda", "/dev/sda", True),
        ("sr0", "/dev/sr0", True),
        ("sda", "/dev/sdb1", False),
    ],
)
def test_what_is_mounted_of_a_device(tmp_path: Path, disk: str, source: str, used: bool) -> None:
    sys_bus, dev = make_bus(tmp_path)
    (sys_bus / "1-2" / "1-2:1.0" / "host6" / "target6:0:0" / "6:0:0:0" / "block" / disk).mkdir(parents=True)
    table = tmp_path / "mounts"
    table.write_text(f"proc /proc proc rw 0 0\n{source} /media/a vfat rw 0 0\n")
    assert find_devices(sys_bus, dev, table)[0]["mounted"] == (["/media/a"] if used else [])


def test_no_bus() -> None:
    assert find_devices(Path("/nonexistent"), Path("/nonexistent")) == []


@pytest.mark.parametrize("text", ["1.4", "1-4", "0951:1666"])
def test_a_device_by_place_and_by_kind(text: str) -> None:
    assert usb.choose_device(text, [TABLET, STICK]) == STICK


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stick", "is not a USB device"),
        ("1.9", "no USB device 1.9"),
        ("0951:1666", "several devices 0951:1666, at 1.4, 1.5"),
    ],
)
def test_a_device_that_cannot_be_meant(text: str, said: str) -> None:
    with pytest.raises(LabError, match=said):
        usb.choose_device(text, [STICK, TWIN, TABLET])


def test_a_device_that_is_mounted_is_left_alone() -> None:
    with pytest.raises(LabError, match="umount /media/a"):
        usb.check_usable(replace(STICK, mounted=("/media/a",)))


def test_a_closed_device_comes_with_the_rule_that_opens_it() -> None:
    usb.check_usable(STICK)
    with pytest.raises(LabError, match="not open to this user") as caught:
        usb.check_usable(replace(STICK, open=False))
    assert 'ATTR{idVendor}=="0951", ATTR{idProduct}=="1666", OWNER="' in str(caught.value)
    assert "udevadm trigger" in str(caught.value)


def test_a_desktop_has_plugs_for_devices() -> None:
    machine = Machine("bookworm", "k", "i", "d", "raw", "", "", "", video="qxl")
    words = plan_screen(machine, 5)
    for plug in PLUGS:
        assert f"socket,id=usb-{plug},path={plug_socket(plug)},server=on,wait=off" in words
        assert f"usb-redir,chardev=usb-{plug},id={plug},bus=xhci.0" in words
