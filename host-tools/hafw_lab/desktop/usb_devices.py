# SPDX-License-Identifier: GPL-2.0-or-later
"""The USB devices of the machine that it runs on. As a program it prints them as JSON: `python3 -c SOURCE`
within a guest. Standard library only and no other file."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

_HUB = "09"


def find_devices(
    sys_bus: Path = Path("/sys/bus/usb/devices"),
    dev: Path = Path("/dev/bus/usb"),
    mounts: Path = Path("/proc/self/mounts"),
) -> list[dict[str, Any]]:
    """All that can be handed over, which leaves out the hubs. `open`: may this user use it? `mounted`: where
    its file systems are in use."""
    found = []
    for path in sorted(sys_bus.glob("*")) if sys_bus.is_dir() else []:
        if ":" in path.name or _read(path / "bDeviceClass") in ("", _HUB):
            continue
        bus, number = int(_read(path / "busnum") or 0), int(_read(path / "devnum") or 0)
        words = (_read(path / "manufacturer"), _read(path / "product"))
        if not bus or not number:
            continue  # it has just been pulled
        found.append(
            {
                "bus": bus,
                "device": number,
                "vendor": _read(path / "idVendor"),
                "product": _read(path / "idProduct"),
                "name": " ".join(word for word in words if word) or "(no name)",
                "open": os.access(dev / f"{bus:03}" / f"{number:03}", os.R_OK | os.W_OK),
                "mounted": _find_mounts(path, mounts),
            }
        )
    return found


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):  # it has none, or the device has just been pulled
        return path.read_text(errors="replace").strip()
    return ""


def _find_mounts(device: Path, table: Path) -> list[str]:
    disks = {path.name for path in device.glob("*/host*/target*/*/block/*")}
    mounts = table.read_text(errors="replace").splitlines() if disks else []
    words = (line.split() for line in mounts)
    return [where for what, where, *_ in words if any(_is_of(what, disk) for disk in disks)]


def _is_of(what: str, disk: str) -> bool:
    """Whether it is the disk or a partition of it."""
    return re.fullmatch(rf"/dev/{re.escape(disk)}\d*", what) is not None


if __name__ == "__main__":
    print(json.dumps(find_devices()))
