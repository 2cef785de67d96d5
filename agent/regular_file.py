# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are read whole: regular ones, of a stated size, never waited for, and by whom they could be
changed.

Hard facts
* Opening a FIFO waits for its other end, and opening a device can do something (a watchdog starts), so a
  file is looked at before it is opened, and again when it is open.
* Some regular files wait as well (/proc/kmsg, a trace pipe); with O_NONBLOCK they say so instead.
* In a user namespace each user that is not mapped, the real root among them, is the overflow user.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.errors import HafwError

_KINDS = {
    stat.S_IFIFO: "is a pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
    stat.S_IFDIR: "is a directory",
}
_MAX_LINKS = 40
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class UnfitFileError(HafwError):
    """`reason` continues where the name of the file ends."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.reason = reason


def read_regular(path: Path, max_bytes: int, *, else_do: str = "") -> bytes:
    """Raises UnfitFileError; `else_do`: what helps when it cannot be read."""
    try:
        _require_regular(path, os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            _require_regular(path, os.fstat(descriptor))
            raw = _read(descriptor, max_bytes + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: no file has such a name
        hint = f"; {else_do}" if else_do else ""
        raise UnfitFileError(path, f"cannot be read: {getattr(error, 'strerror', error)}{hint}") from error
    if len(raw) > max_bytes:
        raise UnfitFileError(path, f"is too long; such a file has at most {max_bytes} bytes")
    return raw


def _require_regular(path: Path, found: os.stat_result) -> None:
    kind = _other_kind(found)
    if kind is not None:
        raise UnfitFileError(path, kind)


def _other_kind(found: os.stat_result) -> str | None:
    if stat.S_ISREG(found.st_mode):
        return None
    return f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'is not a regular file')}; name a regular file"


def _read(descriptor: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := os.read(descriptor, min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def find_weakness(path: Path) -> str | None:
    """Who but root could change what is read there, as words that continue where the name of the file ends.

    Only root asks: what another user reads takes effect nowhere. The user who called sudo counts as root.
    """
    if os.geteuid() != 0:
        return None
    trusted = _trusted()
    try:
        for place in _places(path):
            weakness = _weakness(place, os.lstat(place), trusted)
            if weakness is not None:
                # chmod of a device or of /tmp would be the wrong cure
                return _find_other_kind(path) or f"is not safe: {place} {weakness}"
    except (OSError, ValueError):
        pass  # its reader says what is wrong
    return None


def _find_other_kind(path: Path) -> str | None:
    try:
        return _other_kind(os.stat(path))
    except OSError:
        return None


def _weakness(place: Path, found: os.stat_result, trusted: frozenset[int]) -> str | None:
    named = shlex.quote(str(place))
    if found.st_uid not in trusted:
        # without -h what the link leads to would be given to root
        chown = "chown -h root" if stat.S_ISLNK(found.st_mode) else "chown root"
        return f"belongs to user {found.st_uid}, not to root; run: `{chown} {named}`"
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & _OTHERS:
        return None
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return None  # only owners replace what is in there, and the owners are looked at
    if not found.st_mode & stat.S_IWOTH and found.st_gid == 0:
        return None
    mode = stat.S_IMODE(found.st_mode)
    return f"can be written by others than root (mode {mode:o}); run: `chmod go-w {named}`"


def _trusted() -> frozenset[int]:
    caller = os.environ.get("SUDO_UID", "")
    found = {0} | ({int(caller)} if caller.isascii() and caller.isdigit() and len(caller) < 11 else set())
    if not _is_everybody_mapped():
        found.add(int(Path("/proc/sys/kernel/overflowuid").read_bytes()))
    return frozenset(found)


def _is_everybody_mapped() -> bool:
    try:
        return Path("/proc/self/uid_map").read_bytes().split() == [b"0", b"0", b"4294967295"]
    except OSError:
        return True


def _places(path: Path) -> Iterator[Path]:
    """Every directory and link on the way to the file, and the file."""
    left = [*reversed(Path(os.getcwd(), path).parts)]
    at, links = Path(left.pop()), 0
    yield at
    while left:
        part = left.pop()
        if part == "..":
            at = at.parent
            continue
        place = at / part
        yield place
        if not place.is_symlink():
            at = place
        elif (links := links + 1) <= _MAX_LINKS:
            target = Path(os.readlink(place))
            left += reversed(target.parts)
            if target.is_absolute():
                at = Path(left.pop())
        else:
            return
