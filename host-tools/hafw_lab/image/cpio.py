# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives in the form that the kernel unpacks into its first file system (cpio, "newc"). Pure."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

_MAGIC = b"070701"
_END = "TRAILER!!!"
_ALIGNED = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """`path` is relative to the root; `mode` has the kind of the file in it, as stat(2) says it. The content
    of a link is its target. `device` is (major, minor)."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def file(path: str, content: bytes, mode: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | mode, content)


def directory(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | mode)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def device(path: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive; directories above each entry are added. Everything belongs to root and to no time."""
    data = bytearray()
    known: set[str] = set()
    for number, entry in enumerate(_with_parents(entries, known), start=1):
        data += _pack_one(number, entry)
    data += _pack_one(0, Entry(_END, 0))
    return bytes(data)


def _with_parents(entries: Iterable[Entry], known: set[str]) -> Iterable[Entry]:
    for entry in entries:
        for parent in reversed(PurePosixPath(entry.path).parents):
            if str(parent) != "." and str(parent) not in known:
                known.add(str(parent))
                yield directory(str(parent))
        if entry.path not in known:
            known.add(entry.path)
            yield entry


def _pack_one(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (
        *(number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name)),
        0,  # no checksum in this form
    )
    head = _MAGIC + b"".join(b"%08x" % value for value in numbers)
    return pad(head + name) + pad(entry.content)


def pad(data: bytes) -> bytes:
    """To where the next archive, or part of one, may begin."""
    return data + b"\0" * (-len(data) % _ALIGNED)
