# SPDX-License-Identifier: GPL-2.0-or-later
"""The place of one of our sockets in the file system."""

import os
import stat
from pathlib import Path

from agent.errors import HafwError


def clear(path: Path) -> None:
    """Remove a socket that an earlier run left at `path`. Raises HafwError for anything else there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise HafwError(f"{path} is not a socket", "remove it")
        path.unlink()
    except FileNotFoundError:
        return
