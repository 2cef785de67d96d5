# SPDX-License-Identifier: GPL-2.0-or-later
"""On what a benchmark ran: versions of everything and the machine's facts."""

import os
import platform
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.process import run

_PACKAGES = (
    "keepalived",
    "conntrackd",
    "conntrack",
    "nftables",
    "dbus-daemon",
    "python3",
    "python3-nftables",
)
_SYSCTLS = ("net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_buckets")


def read_facts() -> dict[str, object]:
    return {
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version_of(name) for name in _PACKAGES},
        "cpus": os.cpu_count(),
        "cpu": _find("/proc/cpuinfo", "model name"),
        "memory": _find("/proc/meminfo", "MemTotal"),
        "load_average": os.getloadavg(),
        "sysctls": {name.replace("/", "."): _read(Path("/proc/sys", name)) for name in _SYSCTLS},
        "root": os.geteuid() == 0,
    }


def _version_of(package: str) -> str | None:
    try:
        return run(["dpkg-query", "-W", "-f", "${Version}", package]).strip() or None
    except LabError:  # not installed from a package: no version to tell
        return None


def _find(path: str, key: str) -> str | None:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), None)


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None
