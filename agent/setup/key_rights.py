# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may read the private key of a tunnel: root, and systemd-networkd, which reads it as a user of its own
(systemd.netdev(5): owner root:systemd-network, mode 0640)."""

import grp
import os
import stat
from pathlib import Path

KEY_MODE = 0o640
_NETWORKD = "systemd-network"


def find_networkd_group() -> int | None:
    try:
        return grp.getgrnam(_NETWORKD).gr_gid
    except KeyError:
        return None


def how_open(key: Path) -> str | None:
    """In which way others may read a key, or change it; None where they may not, or it cannot be seen. The
    group's name is not looked up: the agent may not."""
    try:
        found = key.stat()
    except OSError:
        return None
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid}"
    mode = stat.S_IMODE(found.st_mode)
    return f"has mode {mode:04o}" if mode & ~KEY_MODE else None


def has_wrong_rights(key: Path) -> bool:
    """Also where systemd-networkd could not read it. Only root gives a key another owner. Raises OSError."""
    if how_open(key) is not None:
        return True
    found, group = key.stat(), find_networkd_group()
    wrong_owner = found.st_uid != 0 or (group is not None and found.st_gid != group)
    return stat.S_IMODE(found.st_mode) != KEY_MODE or (os.geteuid() == 0 and wrong_owner)
