# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nodes the command line wants as virtual machines. Pure but for the parser that is added to."""

import argparse
from collections.abc import Iterable

from hafw_lab.errors import LabError

RELEASES = ("bookworm", "trixie")
DEFAULT_RELEASE = "trixie"
_ALL = "all"


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vm",
        nargs="?",
        const=_ALL,
        metavar="NODE,...",
        help="virtual machines instead of namespaces: all nodes, or those named",
    )
    parser.add_argument(
        "--host",
        metavar="NODE",
        help="the node that this machine itself is, e.g. omarine; until the lab ends it has a link into the"
        " lab (as root)",
    )
    parser.add_argument(
        "--release",
        metavar="RELEASE",
        help=f"Debian in the machines: {' or '.join(RELEASES)} (default: {DEFAULT_RELEASE}),"
        " or of each: fw-1=bookworm,fw-2=trixie",
    )


def choose_machines(
    wanted: str | None, release: str | None, nodes: Iterable[str], desktops: Iterable[str] = ()
) -> dict[str, str]:
    """The machines and the release of each; `desktops` are among them. Raises LabError for what does not go
    together."""
    names = list(nodes)
    if wanted is None and not desktops:
        if release is not None:
            raise LabError("--release is for virtual machines", "add --vm")
        return {}
    chosen = names if wanted == _ALL else wanted.split(",") if wanted else []
    for name in chosen:
        if name not in names:
            raise LabError(f"there is no node {name!r} for --vm", f"the nodes are {', '.join(names)}")
    releases = _read_releases(release or DEFAULT_RELEASE, names)
    wished = {*chosen, *desktops}
    return {name: releases.get(name, DEFAULT_RELEASE) for name in names if name in wished}


def _read_releases(text: str, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, release = part.rpartition("=")
        if release not in RELEASES:
            raise LabError(f"--release: {release!r} is not one of {', '.join(RELEASES)}")
        if equals and name not in names:
            raise LabError(f"--release: there is no node {name!r}", f"the nodes are {', '.join(names)}")
        found |= {name: release} if equals else {one: release for one in names if one not in found}
    return found
