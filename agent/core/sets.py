# SPDX-License-Identifier: GPL-2.0-or-later
"""The elements of dynamic sets are in no file, so one node has them from the other: which node sends, and
when. Pure.

What the primary has is right, and its peer gets it in the place of its own. A node whose table was made
again (it has just started, or another program had flushed it) has lost its elements: then those of the other
one are right, whichever is primary, and a primary that gets them keeps what was added to it since.

An administrator changes one node, and a moment later the other. So a node that has lost nothing changes only
what it found to differ in two sendings that follow each other.
"""

from dataclasses import dataclass

from agent.core.peer import NodeStatus
from agent.core.roles import Role

PERIOD_S = 60.0
"""So long may a difference last that nothing reported: an element that another program has added."""
PAUSE_S = 5.0
"""At least, between two sendings: so much work can a peer make that comes and goes, or never tells the
truth; and `hafw set` hardly ever takes longer from one node to the other."""
LONG_PAUSE = 10
"""How many times as long as a sending took the next one waits at least."""
FAILURES = 2
"""In a row: one may come of a moment in which the roles or the rules change."""


def is_sender(own: NodeStatus, peer: NodeStatus) -> bool:
    """Also while the rules differ, as between the upgrades of both nodes: another version makes other rules
    of the same file, and has made its table again. Where the sets are others, the peer takes nothing."""
    if not own.rules or not peer.rules or Role.UNKNOWN in (own.role, peer.role):
        return False
    if (own.role is Role.PRIMARY) == (peer.role is Role.PRIMARY):
        return False
    if own.sets_lost != peer.sets_lost:
        return peer.sets_lost
    return own.role is Role.PRIMARY


@dataclass(frozen=True, slots=True)
class About:
    """What a sending was about. Of another one nothing is known yet."""

    roles: tuple[Role, Role]
    rules: tuple[str, str]


def about(own: NodeStatus, peer: NodeStatus) -> About:
    return About((own.role, peer.role), (own.rules, peer.rules))


@dataclass(frozen=True, slots=True)
class Sending:
    """The last sending: when it ended, how long it took, and what became of it. `failed`: how often in a
    row. `about`: None when the peer was not heard since. `unsure`: the peer waits for another one before it
    changes anything."""

    about: About | None = None
    ended_s: float = float("-inf")
    took_s: float = 0.0
    failed: int = 0
    unsure: bool = False

    def is_next_due(self, now: About, now_s: float, *, lost: bool) -> bool:
        """`lost`: the peer says that it has lost its elements."""
        soon = lost or self.unsure or self.failed > 0 or now != self.about
        pause_s = PAUSE_S if soon else PERIOD_S
        return now_s - self.ended_s >= max(pause_s, LONG_PAUSE * self.took_s)
