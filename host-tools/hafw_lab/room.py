# SPDX-License-Identifier: GPL-2.0-or-later
"""Room on the disks for what takes much of it: looked for before, and named when it runs out."""

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from hafw_lab.errors import LabError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SIGNS = ("No space left on device", "Disk quota exceeded")
_MB = 1_000_000
_ALMOST_NONE = 50 * _MB
"""What the last file did not fit into, or what root has in reserve."""
HINT = "make room there, or set HAFW_CACHE to a directory on another disk"


def require_room(what: str, needs: Iterable[tuple[Path, int]]) -> None:
    """`needs` are bytes, each in a directory that need not be there yet; those on one disk add up. Raises
    LabError."""
    disks: dict[int, tuple[Path, int]] = {}
    for path, size in needs:
        place = _find_existing(path)
        first, before = disks.setdefault(place.stat().st_dev, (path, 0))
        disks[place.stat().st_dev] = (first, before + size)
    for path, size in disks.values():
        free = free_bytes(path)
        if free < size:
            text = (
                f"{what} needs about {size // _MB} MB on the disk of {path}, where {free // _MB} MB are free"
            )
            raise LabError(text, HINT)


def free_bytes(path: Path) -> int:
    """Of the file system where `path` is or would be."""
    return shutil.disk_usage(_find_existing(path)).free


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def tells_full(output: Iterable[str]) -> bool:
    """Whether a program has said that its disk is full."""
    return any(sign in line for line in output for sign in _SIGNS)


def explain_full(what: str, places: Iterable[Path]) -> LabError:
    """`places` are those that were written to: the one with the least room was the one that had none."""
    place = min(places, key=free_bytes)
    free = free_bytes(place)
    if free < _ALMOST_NONE:
        return LabError(f"{what}: the disk of {place} is full ({free // _MB} MB free)", HINT)
    text = f"{what}: no space was left, though the disk of {place} has {free // _MB} MB free"
    return LabError(text, "it is put together in memory: is there enough of that?")


def _find_existing(path: Path) -> Path:
    path = path.absolute()
    while not os.path.exists(path):
        path = path.parent
    return path
