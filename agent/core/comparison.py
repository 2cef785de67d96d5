# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup's states, compared with the primary's: what the two agents say to each other for that, and what
the backup decides by the answers. Pure.

The backup asks, the primary answers; neither waits for it with anything else. The primary lists its states,
the backup finds those that it lacks, and the primary reports these again, which conntrackd sends in its own
stream, until none of them is missing that still lives. States that conntrackd lost meanwhile were in no
list: so the primary lists once more.

What has ended on the primary while nothing told the backup would live on there for as long as its timer
says. The backup deletes what it had alone in two comparisons of a stay in its role, and asks for it again:
another connection may have the same tuple by then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from agent.core.census import HASH_BYTES, MAX_STATES

FASTEST, SLOWEST = 60_000, 5_000
"""States that are reported again in a second: what two conntrackds on small machines can take, and what any
can."""
LIST_BYTES = 5_500 * HASH_BYTES
MAX_LIST_PARTS = ceil(MAX_STATES * HASH_BYTES / LIST_BYTES)
MAX_LISTS, MAX_ROUNDS = 3, 5
MAX_REASON = 200
MUCH = 1_000
"""Where a backup that has just come lacks more states, the primary lists again after it has reported them:
it has many new ones by then."""
FEW = 20
"""So many states end also where hardly any connection lives."""
ALONE_S = 30.0
"""So long a state must have been on the backup alone: longer than one is on its way."""
COMPARE_AFTER_S = 60.0
COMPARE_COST_S = 8e-6
"""What a comparison costs a node's processor for each state."""
COMPARE_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class AskStates:
    """From a backup: list them, answered by all parts of the list."""

    number: int


@dataclass(frozen=True, slots=True)
class StatesPart:
    """A part of a list of states. From a primary its own; from a backup those that it lacks, to be reported
    again `per_second`, answered by StatesTouched."""

    number: int
    part: int
    parts: int
    hashes: bytes
    per_second: int = 0
    protocols: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatesTouched:
    """From a primary: how many states it has reported again."""

    number: int
    count: int


@dataclass(frozen=True, slots=True)
class StatesRefused:
    """From the node that was asked: it does not do that now."""

    number: int
    reason: str


StatesMessage = AskStates | StatesPart | StatesTouched | StatesRefused


def parts_of(
    number: int, hashes: bytes, per_second: int = 0, protocols: Mapping[str, int] | None = None
) -> tuple[StatesPart, ...]:
    """At least one."""
    pieces = [hashes[at : at + LIST_BYTES] for at in range(0, len(hashes), LIST_BYTES)] or [b""]
    return tuple(
        StatesPart(number, part, len(pieces), piece, per_second, protocols or {})
        for part, piece in enumerate(pieces)
    )


@dataclass(slots=True)
class Collected:
    """The parts of one list, in whatever order they come, each perhaps twice."""

    number: int
    parts: dict[int, StatesPart] = field(default_factory=dict)

    def add(self, one: StatesPart) -> bytes | None:
        """The list, when it is whole."""
        if one.number != self.number:
            self.number, self.parts = one.number, {}
        self.parts[one.part] = one
        if any(part not in self.parts for part in range(one.parts)):
            return None
        return b"".join(self.parts[part].hashes for part in range(one.parts))


def refused_for(number: int, reason: str) -> StatesRefused:
    """The peer takes one short line that can be printed, and nothing else."""
    line = " ".join(reason.split())[:MAX_REASON]
    return StatesRefused(number, "".join(one if one.isprintable() else "?" for one in line))


def is_believed(alone: int, common: int) -> bool:
    """Whether a list of the primary's that has so many of the backup's states may end so many that only the
    backup has: one of a primary that has lost them must not."""
    return alone <= max(FEW, common)


def slower(per_second: int) -> int:
    """After losses."""
    return max(SLOWEST, per_second // 2)


def compare_after_s(states: int) -> float:
    """How long a backup waits between two comparisons."""
    return max(COMPARE_AFTER_S, states * COMPARE_COST_S / COMPARE_SHARE)
