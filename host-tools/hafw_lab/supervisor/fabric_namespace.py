# SPDX-License-Identifier: GPL-2.0-or-later
"""The namespaces in which a lab's supervisor lives, and what has to be so in them. Standard library only."""

import contextlib
import os
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.kernel import namespaces as ns
from hafw_lab.process import run

_STAGES = ("/mnt", "/media", "/srv", "/boot", "/opt", "/home")
"""Where the private file system of the lab may be mounted: any of them, since no other process sees it."""


def quiet_fabric() -> None:
    """The bridges carry the nodes' packets and send none of their own."""
    for place in ("all", "default"):
        key = Path(f"/proc/sys/net/ipv6/conf/{place}/disable_ipv6")
        if key.exists():
            key.write_text("1")


def load_connection_tracking() -> None:
    """An unprivileged node cannot load modules, but the kernel loads this one for any process that asks for
    the table."""
    with contextlib.suppress(LabError):  # the firewalls' own daemons say it better
        run(["conntrack", "-C"])


def enter_namespaces(name: str) -> Path:
    if os.geteuid() != 0:
        ns.enter_user_namespace()
    try:
        ns.unshare(ns.NEWNET | ns.NEWNS | ns.NEWUTS)
        ns.make_mounts_private()
        ns.set_host_name(f"lab-{name}")
        code = Path(__file__).resolve()
        stage = next((d for d in map(Path, _STAGES) if d.is_dir() and d not in code.parents), None)
        if stage is None:
            raise LabError(
                "none of " + ", ".join(_STAGES) + " exists, so there is no place for the lab's files"
            )
        ns.mount("hafw-lab", stage, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    except OSError as error:
        raise LabError(f"cannot make namespaces: {error}", "run it as root; see hafw-lab doctor") from error
    ns.adopt_orphans()
    return stage
