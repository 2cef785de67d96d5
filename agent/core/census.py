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
from collections.abc import Collection, Iterable, Mapping
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
    """What a comparison has found on the backup, packed. `missing`: of the primary's. `alone`: what only the
    backup has. `ended`: what only it had, and was deleted."""

    protocols: Mapping[str, int]
    missing: bytes
    alone: bytes = b""
    ended: bytes = b""


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """The same on every machine."""
    listed = tuple(hashes)
    return struct.pack(f"<{len(listed)}Q", *listed)


def unpack_hashes(packed: bytes) -> tuple[int, ...]:
    """Raises ValueError for what pack_hashes() does not make."""
    if len(packed) % HASH_BYTES:
        raise ValueError(f"{len(packed)} bytes are no hashes")
    return struct.unpack(f"<{len(packed) // HASH_BYTES}Q", packed)


def compare(primary: bytes, now: Collection[int]) -> tuple[set[int], list[int]]:
    """What the backup lacks of the primary's states, and what it has alone. `now`: the backup's."""
    missing = set(unpack_hashes(primary))
    alone = [one for one in now if one not in missing]
    missing.difference_update(now)
    return missing, alone
