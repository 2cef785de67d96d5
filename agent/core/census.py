# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a whole table as numbers, and what a backup lacks of the primary's. Pure.

A state is known by the hash of its original tuple, eight bytes, so that a million of them are told in a
second. States come and go while they are listed and told, so the backup's are listed when the primary's list
is here. What the primary had and the backup then has not is missing, or has ended meanwhile: the primary is
asked to report it again, and only finds what still lives.

What only the backup has may have ended while replication was away; but it may as well live, and be missing
in a list that was made too early or is too short. So it ends when it is in neither of two lists, see
agent/core/comparison.py.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

HASH_BYTES = 8
MAX_STATES = 1 << 21
"""As many as conntrackd replicates (its HashLimit)."""


@dataclass(frozen=True, slots=True)
class Census:
    """The states that are replicated: how many of each protocol, and all their hashes, packed."""

    protocols: Mapping[str, int] = field(default_factory=dict)
    hashes: bytes = b""

    @property
    def total(self) -> int:
        return len(self.hashes) // HASH_BYTES


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison has found on the backup. `missing`: of the primary's, packed. `alone`: what only the
    backup has, packed. `ended`: so many of these were deleted."""

    protocols: Mapping[str, int]
    missing: bytes
    alone: bytes = b""
    ended: int = 0


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """The same on every machine."""
    listed = tuple(hashes)
    return struct.pack(f"<{len(listed)}Q", *listed)


def unpack_hashes(packed: bytes) -> tuple[int, ...]:
    """Raises ValueError for what pack_hashes() does not make."""
    if len(packed) % HASH_BYTES:
        raise ValueError(f"{len(packed)} bytes are no hashes")
    return struct.unpack(f"<{len(packed) // HASH_BYTES}Q", packed)


class PrimaryList:
    """What the primary has listed, while the backup's states go by, which are listed after it. Two sorted
    arrays take a tenth of what sets of a million numbers would."""

    def __init__(self, packed: bytes) -> None:
        """Raises ValueError for what pack_hashes() does not make."""
        self._listed = array("Q", sorted(unpack_hashes(packed)))
        self._found = bytearray(len(self._listed))

    def has(self, one: int) -> bool:
        """Whether the primary has this state of the backup, which then is not missing."""
        at = bisect_left(self._listed, one)
        has = at < len(self._listed) and self._listed[at] == one
        if has:
            self._found[at] = True
        return has

    def missing(self) -> Iterator[int]:
        return (one for one, found in zip(self._listed, self._found, strict=True) if not found)


def compare(primary: bytes, now: Iterable[int]) -> set[int]:
    """What the backup lacks of the primary's. `now`: the backup's."""
    missing = set(unpack_hashes(primary))
    missing.difference_update(now)
    return missing
