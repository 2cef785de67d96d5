# SPDX-License-Identifier: GPL-2.0-or-later
"""Our sockets in the file system, and who connects to one."""

import os
import socket
import stat
import struct
from pathlib import Path

from agent.errors import HafwError

_CREDENTIALS = struct.Struct("3i")


def clear(path: Path) -> None:
    """Remove a socket that an earlier run left at `path`. Raises HafwError for anything else there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise HafwError(f"{path} is not a socket", "remove it")
        path.unlink()
    except FileNotFoundError:
        return


def bind(path: Path, kind: socket.SocketKind, mode: int = 0o600) -> socket.socket:
    """A socket at `path`, in the place of one that an earlier run has left. Raises HafwError for anything
    else there, OSError when there can be none."""
    clear(path)
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o777 & ~mode)
    try:
        made.bind(str(path))
    except OSError:
        made.close()
        raise
    finally:
        os.umask(mask)
    return made


def credentials_of(line: socket.socket) -> tuple[int, int, int]:
    """Process, user and group of the other end, as they were when it connected."""
    found: tuple[int, int, int] = _CREDENTIALS.unpack(
        line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return found
