# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the lab keeps what is costly to make."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.progress import Progress


def cache_dir() -> Path:
    """`HAFW_CACHE`, or hafw in the user's own cache. It may not be there yet."""
    chosen = os.environ.get("HAFW_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hafw"


@contextlib.contextmanager
def hold_cache(name: str, say: Progress) -> Iterator[Path]:
    """A directory of the cache for the length of the block, for one process at a time. Raises LabError."""
    directory = cache_dir() / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / ".lock", "a", encoding="utf-8")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise LabError(
            f"cannot write into {directory}: {error.strerror}", "set HAFW_CACHE to a directory of yours"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process works in {directory}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield directory
