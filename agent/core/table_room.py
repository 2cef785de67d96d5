# SPDX-License-Identifier: GPL-2.0-or-later
"""How much room the kernel's conntrack table has left. Pure.

A full table refuses every packet that would be a new connection, wherever it comes from and goes to. Before
that it gives up states that no answer has been seen of yet.
"""

from collections.abc import Collection
from dataclasses import dataclass

from agent.core.conditions import Condition, Finding

FILLING, CLEARED = 0.80, 0.75
FULL, NOT_FULL = 1.0, 0.95
"""Shares of the table: where a condition begins, and below which it ends."""


@dataclass(frozen=True, slots=True)
class Room:
    """`limit` is 0 where there is none. `refused` and `evicted` have been counted by the kernel since it
    runs; 0 where it does not count."""

    states: int
    limit: int
    refused: int = 0
    evicted: int = 0

    @property
    def share(self) -> float:
        return self.states / self.limit if self.limit else 0.0


def judge_room(before: Room, now: Room, problems: Collection[Condition]) -> tuple[Finding, Finding]:
    """`problems` are those of before: a condition ends further down than where it begins."""
    return _filling(now, Condition.TABLE_FILLING in problems), _full(
        before, now, Condition.TABLE_FULL in problems
    )


def _filling(now: Room, was: bool) -> Finding:
    filling = now.share >= (CLEARED if was else FILLING)
    text = _words(now) + ("; raise net.netfilter.nf_conntrack_max on both nodes" if filling else "")
    return Condition.TABLE_FILLING, not filling, text


def _full(before: Room, now: Room, was: bool) -> Finding:
    """Between two looks it may have been full for a moment, which only its counters show. These grow for
    other reasons too, but then there is room."""
    refused, evicted = max(0, now.refused - before.refused), max(0, now.evicted - before.evicted)
    near = now.share >= FILLING
    full = now.share >= (NOT_FULL if was else FULL) or (near and refused + evicted > 0)
    if not full:
        return Condition.TABLE_FULL, True, f"new connections are accepted again: {_words(now)}"
    counted = f"; {refused} packets refused and {evicted} states given up since the last look"
    text = f"new connections are refused: {_words(now)}{counted if refused + evicted else ''}"
    return Condition.TABLE_FULL, False, text


def _words(now: Room) -> str:
    limit = f"{now.limit} ({now.share:.0%})" if now.limit else "any number"
    return f"the conntrack table has {now.states} states of {limit}"
