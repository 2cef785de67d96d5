# SPDX-License-Identifier: GPL-2.0-or-later
"""What a measurement was made with: date, command, versions of the parts."""

import platform
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from agent import __version__
from hafw_lab.client.lab import Lab
from hafw_lab.errors import LabError
from hafw_lab.report.page import Surroundings

_VERSIONS = {
    "keepalived": ("sh", "-c", "keepalived --version 2>&1 | head -n 1"),
    "conntrackd": ("sh", "-c", "conntrackd -v | head -n 1"),
    "nftables": ("nft", "--version"),
    "kernel": ("uname", "-sr"),
}


def look_around(lab: Lab, argv: list[str] | None = None) -> Surroundings:
    """The versions are those of the firewalls, asked in the running lab."""
    command = shlex.join(["./run", *(argv if argv is not None else sys.argv[1:])])
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Surroundings(date, command, tuple(_versions(lab)))


def _versions(lab: Lab) -> Iterator[tuple[str, str]]:
    yield "hafw", __version__
    for name in lab.firewalls:
        for what, argv in _VERSIONS.items():
            try:
                said = lab.node(name).run(argv).stdout.strip()
            except LabError as error:
                said = f"unknown ({error})"
            yield f"{what} on {name}", said
    yield "Python of the lab", platform.python_version()
