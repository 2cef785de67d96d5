# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel and the other daemons work by, as far as it can be seen from outside.

Hard facts
* conntrackd reads its file once, and then makes its socket.
* keepalived keeps what it has read in a memfd, which it writes again at each reload (2.2.7). Another process
  may look at that only if it may do all that keepalived may: root may, the agent's service may not.
"""

import os
from pathlib import Path

_MEMFD = "/memfd:/keepalived/consolidated_configuration"
_LONGEST = 4096


def read_sysctl(key: str, net: Path = Path("/proc/sys/net")) -> str | None:
    """`key` is the path below /proc/sys, and begins with `net/`; None where there is no such setting.
    Several numbers have one space between them."""
    try:
        with open(net / key.removeprefix("net/"), "rb") as file:
            return " ".join(file.read(_LONGEST).decode(errors="replace").split())
    except (OSError, ValueError):
        return None


def written_ns(path: Path) -> int | None:
    """When a file was last written, of the wall clock; None where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def conntrackd_read_ns(socket: Path) -> int | None:
    """When the conntrackd that runs has read its file; None where none runs."""
    try:
        return os.stat(socket).st_ctime_ns
    except OSError:
        return None


def keepalived_read_ns(pid_file: Path, proc: Path = Path("/proc")) -> int | None:
    """When the keepalived that runs has read its file; None where none runs, or we may not look."""
    try:
        pid = int(pid_file.read_text()[:16])
        for one in (proc / str(pid) / "fd").iterdir():
            if os.readlink(one).startswith(_MEMFD):
                return os.stat(one).st_mtime_ns
    except (OSError, ValueError):
        return None
    return None
