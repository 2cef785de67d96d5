# SPDX-License-Identifier: GPL-2.0-or-later
"""What to do when a file of ours cannot be opened or written: the hint of a HafwError."""

import errno
import os

_CURES = {
    errno.EROFS: "its file system is read-only; mount it writable",
    errno.ENOSPC: "its disk is full; make room there",
    errno.EDQUOT: "its quota is used up; make room there",
    errno.EIO: "its disk fails; look at dmesg",
    errno.ENOENT: "make the directory that it is in",
    errno.ENOTDIR: "a part of that path is no directory; move it away",
    errno.EISDIR: "a directory is in its place; move it away",
    errno.ELOOP: "its links go in a circle; remove one of them",
    errno.ENAMETOOLONG: "choose a shorter path",
}


def cure_of(error: OSError) -> str | None:
    """What helps where a file cannot be opened or written; None where nobody knows."""
    if isinstance(error, PermissionError):
        if os.geteuid() != 0:
            return "run as root"
        return "root may not either: look at its attributes (lsattr) and at what confines this process"
    return _CURES.get(error.errno or 0)
