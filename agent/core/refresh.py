# SPDX-License-Identifier: GPL-2.0-or-later
"""What a primary in direct mode reports again, so that no copy of a living state runs out. Pure.

A packet gives its state the whole timeout again, and the kernel reports nothing of it: the copy counts down
from what was reported last. On a node that was primary, the end of a copy is told to the peer, whose
conntrackd then deletes the living one: so none may be left out.

Datagrams have timeouts of half a minute, and all of theirs are reported again every time. Of connections,
which are many and have long timeouts, those are reported that have little left, those that had little left
the last time, since their copies still do, and of the others a slice, so that each of them has its turn in
ROUND_S.
"""

from dataclasses import dataclass

DATAGRAMS = {"udp": 17, "icmp": 1, "icmpv6": 58}
ROUND_S = 600.0
LITTLE_LEFT_S = 750
"""More than a round and a pass of it take: a copy that has this is reported again before it ends."""
CONNECTIONS_AFTER_S = 20.0
"""A connection that is closed on one side has 60 s, and can send for hours."""
MAX_SLICE = 0.1
"""At once, however late it is."""
WALK_COST_S = 1e-6
"""What the kernel's walk through its table costs the primary for each state, when only datagrams are
listed."""
LIST_COST_S = 4e-6
"""What one more state in a list costs the primary."""
TOUCH_COST_S = 20e-6
"""What a state that is reported again costs the conntrackd of either node."""
SHARE = 0.10
"""How much of one processor all of this may take."""
PER_SECOND = 30_000
"""States that are reported again: half of what was measured to arrive."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Over all connections. `touched`: so many were reported again. `ending`: which of them had little time
    left, as the next pass takes it."""

    touched: int
    ending: bytes


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of all connections, from `begin` on, both as shares of one: a circle."""

    begin: float
    width: float


EVERYTHING = Slice(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Round:
    """`at`: where the next slice begins. `listed_s`: when connections were last listed, by a clock that does
    not jump; None before. `touched`: so many were reported then."""

    at: float = 0.0
    listed_s: float | None = None
    touched: int = 0

    def next(self, now_s: float, states: int) -> "tuple[Round, Slice | None]":
        """The slice that is due, None when it is too early for one: all were sent just before the first."""
        if self.listed_s is None:
            return Round(self.at, now_s), None
        passed_s = now_s - self.listed_s
        cost_s = states * LIST_COST_S + self.touched * TOUCH_COST_S
        if passed_s < max(CONNECTIONS_AFTER_S, cost_s / SHARE):
            return self, None
        width = min(passed_s / ROUND_S, MAX_SLICE)
        return Round((self.at + width) % 1.0, now_s), Slice(self.at, width)


def period_s(shortest_timeout_s: float, kernel: int, touched: int) -> float:
    """How long the primary waits until the next one. `kernel`: so many states there are; `touched`: so many
    datagrams' the last one reported. A third of the shortest timeout, unless that would eat a processor."""
    cost_s = kernel * WALK_COST_S + touched * TOUCH_COST_S
    return max(shortest_timeout_s / 3, cost_s / SHARE)
