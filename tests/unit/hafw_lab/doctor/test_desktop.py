# SPDX-License-Identifier: GPL-2.0-or-later
"""What doctor says about a machine: one that has everything, and one that lacks a thing, for each thing."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hafw_lab.desktop import clipboard_bridge
from hafw_lab.doctor import desktop
from hafw_lab.doctor.desktop import Surface, examine_desktops
from hafw_lab.doctor.finding import Level

PROGRAMS = {*desktop.DESKTOP_PROGRAMS, "qemu-system-x86_64"}
FILES = {"/etc/os-release": 'VERSION_ID="13"\n'}
DEVICE: dict[str, object] = {"bus": 1, "device": 4, "name": "Stick", "open": True}


def answer(argv: list[str]) -> tuple[int, str]:
    """Of a machine that has everything."""
    return (1, "password-secret=<str>") if "-spice" in argv else (0, "")


def fail(word: str, said: str) -> object:
    """The same, but programs with this word among their arguments fail."""
    return lambda argv: (1, said) if word in " ".join(argv) else answer(argv)


COMPLETE = Surface(
    find_program=lambda name: f"/usr/bin/{name}" if name in PROGRAMS else None,
    run=answer,
    read=lambda path: FILES.get(str(path)),
    free_bytes=lambda _: 1 << 40,
    find_usb=lambda: [DEVICE],
    root=True,
    user="anna",
)


def complain(**changes: object) -> str:
    """The only complaint about a machine that is different in this, with its hint."""
    found = examine_desktops(replace(COMPLETE, **changes))  # type: ignore[arg-type] # any of its fields
    (bad,) = [one for one in found if one.level is not Level.OK]
    return f"{bad.text} -> {bad.hint}"


def reader(**files: str) -> object:
    known = {**FILES, **{name.replace("__", "/"): text for name, text in files.items()}}
    return lambda path: known.get(str(path))


def test_nothing_is_missing() -> None:
    assert {one.level for one in examine_desktops(COMPLETE)} == {Level.OK}


@pytest.mark.parametrize(("name", "package"), desktop.DESKTOP_PROGRAMS.items())
def test_a_program_is_missing(name: str, package: str) -> None:
    said = complain(find_program=lambda one: None if one == name else "/usr/bin/x")
    assert said.startswith(f"{name} not found")
    assert said.endswith(f"{desktop.INSTALL} {package}")


@pytest.mark.parametrize(("version", "package"), desktop.SPICE_MODULE.items())
def test_qemu_without_spice(version: str, package: str) -> None:
    files = {"__etc__os-release": f'VERSION_ID="{version}"\n'}
    said = complain(run=fail("-spice", "There is no option group 'spice'"), read=reader(**files))
    assert said.endswith(f"install --no-install-recommends {package}")


def test_libraries_are_missing() -> None:
    said = complain(run=fail("gi.require_version", "Traceback\nValueError: Namespace Gtk not available"))
    assert "ValueError: Namespace Gtk not available" in said
    assert "gir1.2-spiceclientgtk-3.0" in said


def test_usb_is_closed() -> None:
    said = complain(find_usb=lambda: [DEVICE, {**DEVICE, "device": 5, "open": False}])
    assert "not open to this user: 1.5 Stick" in said
    assert 'OWNER="anna"' in said


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ({}, "user.max_user_namespaces=15000"),
        ({"__proc__sys__kernel__unprivileged_userns_clone": "0\n"}, "kernel.unprivileged_userns_clone=1"),
        (
            {"__proc__sys__kernel__apparmor_restrict_unprivileged_userns": "1\n"},
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_namespaces_are_for_root_only(files: dict[str, str], command: str) -> None:
    said = complain(run=fail("unshare", "unshare failed: Operation not permitted"), read=reader(**files))
    assert "Operation not permitted" in said
    assert said.endswith(f"sysctl -w {command}")


def test_bridges_go_through_the_firewall() -> None:
    said = complain(read=reader(**{"__proc__sys__net__bridge__bridge-nf-call-ip6tables": "1\n"}))
    assert said.startswith("br_netfilter")
    assert said.endswith("sysctl -w net.bridge.bridge-nf-call-ip6tables=0")


def test_no_room() -> None:
    found = examine_desktops(replace(COMPLETE, free_bytes=lambda _: 3 << 29))
    assert [one.text.split()[0] for one in found if one.level is Level.NOTE] == ["1.5", "1.5"]


def test_this_machine_can_be_looked_at() -> None:
    assert examine_desktops()


def test_the_packages_that_are_named_exist() -> None:
    spice = desktop.SPICE_MODULE
    release = Path("/etc/os-release").read_text()
    here = [package for version, package in spice.items() if f'VERSION_ID="{version}"' in release]
    wanted = {*desktop.DESKTOP_PROGRAMS.values(), *clipboard_bridge.PACKAGES, *here}
    argv = ["apt-cache", "show", "--no-all-versions", *sorted(wanted)]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("Package: ")} == wanted
