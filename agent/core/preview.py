# SPDX-License-Identifier: GPL-2.0-or-later
"""What a change of role would do: the machine itself, on a node where every action succeeds. Pure."""

from collections import deque
from dataclasses import dataclass

from agent.core.actions import Action, CommitStates, Committed, Plan, SetTimer, Timer
from agent.core.events import ActionDone, Event, RoleSeen, Started, TimerFired
from agent.core.machine import step
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.core.state import State

MAX_ACTIONS = 100
"""A table of transitions that never comes to rest is printed up to here."""


@dataclass(frozen=True, slots=True)
class Preview:
    at_once: Plan
    when_settled: Plan


def preview(settings: Settings, before: Role, after: Role) -> Preview:
    """Of a node that has settled as `before`."""
    started, _ = _handle(settings, State(), Started(0, RuleSet.BACKUP))
    settled, _ = _change(settings, started, before)
    return _change(settings, settled, after)[1]


def _change(settings: Settings, state: State, role: Role) -> tuple[State, Preview]:
    state, at_once = _handle(settings, state, RoleSeen(0, role, "preview", 0))
    later: Plan = ()
    if any(isinstance(action, SetTimer) and action.timer is Timer.SETTLE for action in at_once):
        state, later = _handle(settings, state, TimerFired(0, Timer.SETTLE))
    return state, Preview(at_once, later)


def _handle(settings: Settings, state: State, event: Event) -> tuple[State, Plan]:
    """What an event leads to, until nothing is left to do: the state then, and what was done."""
    taken = step(settings, state, event)
    left, done = deque(taken.plan or ()), list[Action]()
    while left and len(done) < MAX_ACTIONS:
        action = left.popleft()
        done.append(action)
        outcome = _ALL_COMMITTED if isinstance(action, CommitStates) else None
        taken = step(settings, taken.state, ActionDone(0, action, outcome))
        if taken.plan is not None:
            left = deque(taken.plan)
    return taken.state, tuple(done)


_ALL_COMMITTED = Committed(expected=0, committed=0, failed=0, skipped=False, evidence="")
