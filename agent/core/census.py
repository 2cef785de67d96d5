# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a whole table as numbers, and what a backup lacks of the primary's. Pure.

A state is known by the hash of its original tuple, eight bytes, so that a million of them are told in a
second. States come and go while they are listed and told, and three lists in this order tell apart what that
explains and what it does not:

    the backup's    before anything is asked of the primary
    the primary's   later
    the backup's    when the primary's is here

What the primary had and the backup then has not is missing, or has ended meanwhile: the primary is asked to
report it again, and only finds what still lives. What the backup had in both of its lists, and the primary
in between not, ended while replication was away.
"""

import struct
from collections.abc import Iterable, Mapping
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
    """What a comparison has found on the backup. `missing`: of the primary's, packed. `ended`: how many
    states only the backup still had; they are gone now."""

    protocols: Mapping[str, int]
    total: int
    missing: bytes
    ended: int


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """The same on every machine."""
    listed = tuple(hashes)
    return struct.pack(f"<{len(listed)}Q", *listed)


def unpack_hashes(packed: bytes) -> tuple[int, ...]:
    """Raises ValueError for what pack_hashes() does not make."""
    if len(packed) % HASH_BYTES:
        raise ValueError(f"{len(packed)} bytes are no hashes")
    return struct.unpack(f"<{len(packed) // HASH_BYTES}Q", packed)


def compare(before: bytes, primary: bytes, now: Iterable[int]) -> tuple[set[int], set[int]]:
    """What the backup lacks of the primary's, and what has ended there. `before` and `now` are the backup's,
    from before and after the primary's."""
    missing, extra = set(unpack_hashes(primary)), set[int]()
    shared = set[int]()
    for one in now:
        if one in missing:
            shared.add(one)
        else:
            extra.add(one)
    missing -= shared
    return missing, extra.intersection(unpack_hashes(before)) if extra else extra
