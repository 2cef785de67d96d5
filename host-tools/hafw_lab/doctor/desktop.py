# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw-lab doctor` says about desktops, clipboard and USB, and about the machine around the lab. The
lab in namespaces needs nothing of it, so nothing is worse than a note."""

import getpass
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hafw_lab.cache import cache_dir
from hafw_lab.desktop import usb_devices
from hafw_lab.desktop.clipboard_bridge import MODULES, PACKAGES
from hafw_lab.doctor.finding import Finding, Level
from hafw_lab.lab_directory import find_room
from hafw_lab.process import ENVIRONMENT
from hafw_lab.programs import QEMU

INSTALL = "apt-get install --no-install-recommends"
DESKTOP_PROGRAMS = {"remote-viewer": "virt-viewer", "openssl": "openssl", "usbredirect": "usbredirect"}
WHAT_FOR = {
    "remote-viewer": "to look at desktops (hafw-lab view)",
    "openssl": "for screens on the network (up --remote)",
    "usbredirect": "to hand USB devices to machines (hafw-lab usb)",
}
SPICE_MODULE = {"12": "qemu-system-common", "13": "qemu-system-modules-spice"}
_IMAGE_BYTES, _RUN_BYTES = 4 << 30, 2 << 30
_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge")
_NOBODY = "65534"


@dataclass(frozen=True, slots=True)
class Surface:
    """Where doctor touches the machine, so that tests can put another one there."""

    find_program: Callable[[str], str | None]
    run: Callable[[list[str]], tuple[int, str]]
    """Status, and everything that the program has said."""
    read: Callable[[Path], str | None]
    free_bytes: Callable[[Path], int]
    find_usb: Callable[[], list[dict[str, object]]]
    root: bool
    user: str


def examine_desktops(surface: Surface | None = None) -> list[Finding]:
    """What machines, desktops and USB lack here, each with the command that helps."""
    here = surface or make_surface()
    looks = (_programs, _spice, _bindings, _usb, _user_namespaces, _bridges, _space)
    return [finding for look in looks for finding in look(here)]


def _programs(here: Surface) -> Iterator[Finding]:
    for name, package in DESKTOP_PROGRAMS.items():
        if here.find_program(name) is None:
            yield Finding(Level.NOTE, f"{name} not found, {WHAT_FOR[name]}", f"{INSTALL} {package}")


def _spice(here: Surface) -> Iterator[Finding]:
    if here.find_program("qemu-system-x86_64") is None:
        return
    _, said = here.run([QEMU, "-spice", "help"])  # the status is 1 in any case
    if "password-secret" in said:
        yield Finding(Level.OK, "qemu has SPICE, for desktops")
        return
    release = here.read(Path("/etc/os-release")) or ""
    package = SPICE_MODULE["12" if 'VERSION_ID="12"' in release else "13"]
    yield Finding(Level.NOTE, "no desktops (--desktop): this qemu has no SPICE", f"{INSTALL} {package}")


def _bindings(here: Surface) -> Iterator[Finding]:
    wanted = "; ".join(f"gi.require_version({name!r}, {version!r})" for name, version in MODULES.items())
    status, said = here.run(["/usr/bin/python3", "-I", "-c", f"import gi; {wanted}"])
    if status == 0:
        yield Finding(Level.OK, "libraries of the clipboard bridge")
        return
    last = said.strip().splitlines()[-1] if said.strip() else f"status {status}"
    text = f"no clipboard bridge without viewers: {last}"
    yield Finding(Level.NOTE, text, f"{INSTALL} {' '.join(PACKAGES)}")


def _usb(here: Surface) -> Iterator[Finding]:
    devices = here.find_usb()
    shut = [one for one in devices if not one["open"]]
    if not devices:
        yield Finding(Level.OK, "USB: no devices here")
    elif not shut:
        yield Finding(Level.OK, f"USB: {len(devices)} devices, all open to this user")
    else:
        names = ", ".join(f"{one['bus']}.{one['device']} {one['name']}" for one in shut)
        rule = f'SUBSYSTEM=="usb", OWNER="{here.user}"'
        udev = f"echo '{rule}' | sudo tee /etc/udev/rules.d/70-hafw-lab-usb.rules; sudo udevadm trigger"
        text = f"USB: not open to this user: {names}"
        yield Finding(
            Level.NOTE, text, f"hafw-lab usb attach prints the rule for one device; for all: {udev}"
        )


def _user_namespaces(here: Surface) -> Iterator[Finding]:
    become = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"] if here.root else []
    status, said = here.run([*become, "unshare", "--user", "--map-root-user", "true"])
    if status == 0:
        yield Finding(Level.OK, "ordinary users may make namespaces: the lab needs no root")
        return
    hint = "sysctl -w user.max_user_namespaces=15000"
    if (here.read(Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")) or "0").strip() == "1":
        hint = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    elif (here.read(Path("/proc/sys/kernel/unprivileged_userns_clone")) or "1").strip() == "0":
        hint = "sysctl -w kernel.unprivileged_userns_clone=1"
    text = f"ordinary users cannot make namespaces ({said.strip() or 'no message'}): the lab needs root"
    yield Finding(Level.NOTE, text, hint)


def _bridges(here: Surface) -> Iterator[Finding]:
    """Only of bridges on the host; those of the lab are in a namespace, which does not inherit this."""
    names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
    on = [name for name in names if (here.read(_BRIDGE_NETFILTER / name) or "0").strip() == "1"]
    if not on:
        yield Finding(Level.OK, "bridges of this machine pass frames without its firewall")
        return
    text = (
        "br_netfilter sends what bridges of this machine carry through its own firewall, which may drop it;"
    )
    text += " the lab's own bridges are not concerned"
    yield Finding(Level.NOTE, text, f"sysctl -w {' '.join(f'net.bridge.{name}=0' for name in on)}")


def _space(here: Surface) -> Iterator[Finding]:
    wanted = (
        (cache_dir(), _IMAGE_BYTES, "images", "remove some, or set HAFW_CACHE to a directory with room"),
        (find_room(), _RUN_BYTES, "disks of running machines", "remove what is not needed there"),
    )
    for path, least, what, hint in wanted:
        free = here.free_bytes(path)
        if free >= least:
            yield Finding(Level.OK, f"{free >> 30} GiB free for {what}")
            continue
        text = f"{free / (1 << 30):.1f} GiB free at {path} for {what}; {least >> 30} GiB are good to have"
        yield Finding(Level.NOTE, text, hint)


# -- this machine --


def make_surface() -> Surface:
    return Surface(
        find_program=lambda name: shutil.which(name, path=ENVIRONMENT["PATH"]),
        run=_run,
        read=_read,
        free_bytes=_free_bytes,
        find_usb=usb_devices.find_devices,
        root=os.geteuid() == 0,
        user=getpass.getuser(),
    )


def _run(argv: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ENVIRONMENT, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, done.stdout + done.stderr


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _free_bytes(path: Path) -> int:
    """Of the file system where `path` is or would be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
