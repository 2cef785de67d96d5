# SPDX-License-Identifier: GPL-2.0-or-later
"""What a primary in direct mode reports again, so that no copy of a living state runs out. Pure.

A packet gives its state the whole timeout again, and the kernel reports nothing of it: the copy counts down
from what was reported last. Datagrams have timeouts of half a minute, and all of theirs are reported again
every time. Of connections, which are many and have long timeouts, those are reported that have little left,
those that had little left the last time, since their copies still do, and of the others a slice, so that
each of them has its turn in ROUND_S.

A copy that runs out all the same is missing until the next report or comparison, and does no harm: the
conntrackd of a backup keeps no cache of its own, so that it tells nobody (plan_catch_up).
"""

from dataclasses import dataclass

DATAGRAMS = frozenset({17, 1, 58})
"""The protocols UDP, ICMP and ICMPv6."""
ROUND_S = 240.0
LITTLE_LEFT_S = 300.0
"""A connection has no more while data of it is not acknowledged, and days with the next packet."""
CONNECTIONS_AFTER_S = 20.0
"""A connection that is closed on one side has 60 s, and can send for hours."""
LIST_COST_S = 2e-6
"""What one more state costs the primary when datagrams are looked for."""
CONNECTION_COST_S = 4e-6
"""The same, when connections are."""
TOUCH_COST_S = 20e-6
"""What a state that is reported again costs the conntrackd of either node."""
SHARE = 0.10
"""How much of one processor datagrams may take; and as much again, connections."""
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
    """A part of all connections, from `begin` on, both as shares of one: a circle. And what counts as little
    time left."""

    begin: float
    width: float
    little_left_s: float = LITTLE_LEFT_S


@dataclass(frozen=True, slots=True)
class Round:
    """`at`: where the next slice begins. `listed_s`: when connections were last listed, by a clock that does
    not jump; None before. `touched`: so many were reported then."""

    at: float = 0.0
    listed_s: float | None = None
    touched: int = 0

    def next(self, now_s: float, states: int) -> "tuple[Round, Slice | None]":
        """The slice that is due, None when it is too early for one: all were sent just before the first."""
        passed_s = ROUND_S if self.listed_s is None else now_s - self.listed_s
        if passed_s >= ROUND_S:  # so the role came, or came again
            return Round(self.at, now_s), None
        cost_s = states * CONNECTION_COST_S + self.touched * TOUCH_COST_S
        if passed_s < max(CONNECTIONS_AFTER_S, cost_s / SHARE):
            return self, None
        width = passed_s / ROUND_S
        little_left_s = max(LITTLE_LEFT_S, ROUND_S + 2 * passed_s)
        following = Round((self.at + width) % 1.0, now_s, self.touched)
        return following, Slice(self.at, width, little_left_s)


def period_s(shortest_timeout_s: float, kernel: int, touched: int) -> float:
    """How long the primary waits until the next one. `kernel`: so many states there are; `touched`: so many
    datagrams' the last one reported. A sixth of the shortest timeout, unless that would eat a processor."""
    cost_s = kernel * LIST_COST_S + touched * TOUCH_COST_S
    return max(shortest_timeout_s / 6, cost_s / SHARE)
