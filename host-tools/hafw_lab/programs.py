# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs that a lab needs of this machine, each with the package of Debian that has it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.process import ENVIRONMENT

Programs = Mapping[str, str]

QEMU = "/usr/bin/qemu-system-x86_64"
SSH = "/usr/bin/ssh"

OF_NAMESPACES: Programs = {
    "ip": "iproute2",
    "nft": "nftables",
    "keepalived": "keepalived",
    "conntrackd": "conntrackd",
    "conntrack": "conntrack",
    "dbus-daemon": "dbus-daemon",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
}
OF_MACHINES: Programs = {
    QEMU: "qemu-system-x86",
    "qemu-img": "qemu-utils",
    SSH: "openssh-client",
}
OF_EXPORTS: Programs = {"qemu-img": "qemu-utils"}
OF_REMOTE_SCREENS: Programs = {"openssl": "openssl"}


def of_images() -> Programs:
    """What builds an image; an ordinary user needs more for the ids of its files."""
    mapping = {} if os.geteuid() == 0 else {"newuidmap": "uidmap"}
    return {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", **mapping}


def find_missing(programs: Programs) -> dict[str, str]:
    path = ENVIRONMENT["PATH"]
    return {
        Path(name).name: package
        for name, package in programs.items()
        if shutil.which(name, path=path) is None
    }


def write_install(missing: Programs) -> str:
    """The command that brings them."""
    return f"apt-get install --no-install-recommends {' '.join(sorted(set(missing.values())))}"


def require_programs(what: str, programs: Programs) -> None:
    """Raises LabError that names what is missing, and what to do."""
    missing = find_missing(programs)
    if missing:
        text = f"programs that {what} need are not here: {', '.join(missing)}"
        raise LabError(text, write_install(missing))
