# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of transitions is the whole truth: nothing changes its answer after the look-up.

Every phase is given every event, with every field of events, `State` and `Settings` varied: each value of a
field of an event occurs with each value of every field of the state and the settings, and every end of a
commit occurs. What comes of it is compared with the line of
the table alone. Then every line is exchanged for every other answer, and that is what is done. What a line,
a plan or the memory may depend on is named here, and nothing else changes it.
"""

import itertools
import random
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any, get_args

import pytest

from agent.core import machine
from agent.core.actions import (
    Action,
    CommitStates,
    Committed,
    Compared,
    CompareStates,
    LoadRules,
    MarkOwed,
    Outcome,
    Plan,
    ResyncKernel,
    SetReadiness,
    SetStanding,
    SetTimer,
    StatesIn,
    SwitchRules,
    Timer,
    VerifyRules,
)
from agent.core.conditions import Condition
from agent.core.coverage import Coverage
from agent.core.events import (
    ActionDone,
    ActionFailed,
    ConditionSeen,
    ConntrackdAsked,
    Event,
    RoleSeen,
    RulesChanged,
    Started,
    StatesCounted,
    TimerFired,
)
from agent.core.machine import PLANS, TRANSITIONS, Move, step
from agent.core.moves import EventKind, Make
from agent.core.plan import RETRY_AFTER_S, SKIPPED_COMMIT_RETRY_S, Settings
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase, State, learn
from agent.model.pair import AfterLimit, SyncMode
from tests.unit.agent.core.variety import (
    NOW,
    OF_EVENTS,
    OF_PARTS,
    RUNS,
    TIMES,
    VALUES,
    Row,
    other_event,
    other_row,
    settings_of,
    state_of,
)

RETRIES_S = (SKIPPED_COMMIT_RETRY_S, RETRY_AFTER_S)


def test_every_field_of_the_state_is_varied() -> None:
    known = [field for owner in (Settings, State, Coverage) for field in fields(owner)]
    varied = {name for name in VALUES if isinstance(name, str)}
    assert len({field.name for field in known}) == len(known), "one name for two fields"
    assert {field.name for field in known} == varied | {"phase", "coverage"}


def test_every_field_of_every_event_is_varied() -> None:
    parts = (*get_args(Action), *get_args(Outcome))
    assert {field.name for kind in get_args(Event) for field in fields(kind)} == OF_EVENTS.keys()
    assert {field.name for kind in parts for field in fields(kind)} == OF_PARTS.keys()
    for name, values in (*VALUES.items(), *OF_EVENTS.items(), *OF_PARTS.items()):
        assert len(set(values)) > 1, name
        if isinstance(values[-1], Enum):
            assert set(values) >= set(type(values[-1])), name


def test_every_value_of_an_event_occurs_with_every_value_of_the_state() -> None:
    of_rows: dict[tuple[object, object], int] = {}
    of_events: dict[tuple[type, str, object], int] = {}
    for number, (row, events) in enumerate(RUNS):
        for item in row.items():
            of_rows[item] = of_rows.get(item, 0) | 1 << number
        for event in events:
            for field in fields(event):
                value = type(event), field.name, getattr(event, field.name)
                of_events[value] = of_events.get(value, 0) | 1 << number
    assert of_events.keys() == {
        (kind, field.name, value)
        for kind in get_args(Event)
        for field in fields(kind)
        for value in OF_EVENTS[field.name]
    }
    for one, other in itertools.product(of_events, of_rows):
        assert of_events[one] & of_rows[other], (one, other)


Line = tuple[Phase, EventKind]
Target = tuple[Phase, Make]


class Asked(dict[Line, Target]):
    """A table that notes what it was asked for."""

    def __init__(self, lines: dict[Line, Target]) -> None:
        super().__init__(lines)
        self.asked: list[Line] = []

    def get(self, line: Line, default: object = None) -> Target | None:  # type: ignore[override]  # no default
        self.asked.append(line)
        return super().get(line)

    def take_line(self) -> Line | None:
        """The one that was asked for since, if the table has it."""
        lines = [line for line in self.asked if line in self]
        self.asked.clear()
        assert len(lines) < 2
        return lines[0] if lines else None


PUT = "(Load|Switch)Rules"
OPEN = (
    f"(MarkOwed True, )?(CompleteExpectations, )?{PUT} primary, SetTimer settle"
    "(, MarkOwed False)?(, CompleteRemaining)?(, FlushCaches)?(, VerifyRules primary)?"
)
TAKE_PART = "(SetStanding takes part, )?"
STAND = "SetStanding (takes part|stands back)"
REREAD = "ResyncKernel, SendBulk(, SetTimer refresh)?"
DOES = {
    Make.START: "LoadRules backup, SetReadiness False",
    Make.PROMOTE: f"{TAKE_PART}(({PUT} backup, )?CommitStates, )?{OPEN}",
    Make.FOLLOW: (
        f"({STAND}, )?{PUT} backup(, SetTimer settle)?(, MarkOwed False)?(, VerifyRules backup)?"
        "(, ShortenTimers)?"
    ),
    Make.OPEN: f"{TAKE_PART}{OPEN}",
    Make.HOLD: "LoadRules backup, SetTimer retry",
    Make.RETRY: "SetTimer retry",
    Make.ANNOUNCE: f"SetReadiness True, (CommitStates, )?(MarkOwed False, )?(FlushCaches, )?{REREAD}",
    Make.CATCH_UP: (
        "(SetReadiness False, StartClean, |FlushCaches, )?"
        "CompareStates, RequestResync, AwaitStates, SetReadiness True(, SetTimer compare)?"
    ),
    Make.READY: "SetReadiness True, SetTimer compare",
    Make.COMPARE: "SetTimer compare, CompareStates",
    Make.COMPARE_SOON: "SetTimer compare",
    Make.NOT_READY: "SetReadiness False, SetTimer retry",
    Make.REFRESH: "RefreshStates, SetTimer refresh",
    Make.REREAD: REREAD,
    Make.WAIT: "",
    Make.EXPECT: f"SetTimer handover, {PUT} primary",
    Make.GIVE_UP: "SetTimer handover, SetStanding gives up",
    Make.STAND_BACK: f"SetTimer handover, {STAND}",
    Make.STAY_OPEN: f"SetTimer handover, {PUT} primary",
}
"""What a plan does, whatever it hangs on: none turns into another where it is made."""


def words(action: Action) -> str:
    name = type(action).__name__
    match action:
        case LoadRules() | SwitchRules() | VerifyRules():
            return f"{name} {action.rules.value}"
        case SetReadiness():
            return f"{name} {action.ready}"
        case MarkOwed():
            return f"{name} {action.owed}"
        case SetStanding():
            return f"{name} {action.standing.value}"
        case SetTimer():
            return f"{name} {action.timer.value}"
        case _:
            return name


def remembered(
    kind: EventKind, settings: Settings, learned: State, event: Event, text: str
) -> dict[str, Any]:
    """What a move leaves in the memory beside its phase and what its plan is about to do. `text`: of the
    limit."""
    begun = {"promoted_ns": event.at_ns, "commits": 0, "flushed": False}
    match kind:
        case EventKind.PROMOTED:
            return begun | {"owed": settings.mode is SyncMode.CACHE}
        case EventKind.RESUMED:
            return begun | {"owed": learned.owed and settings.mode is SyncMode.CACHE}
        case EventKind.DEMOTED:
            return {"owed": False}
        case EventKind.LIMIT_OPENS | EventKind.LIMIT_HOLDS:
            return {"problems": {**learned.problems, Condition.STATES: text}}
        case EventKind.HANDOVER_BEGUN:
            return {"handover_ns": event.at_ns}
        case EventKind.STATES_LOST:
            return {"coverage": replace(learned.coverage, suspicions=0, asked=True)}
        case _:
            return {}


def about_to(plan: Plan | None) -> dict[str, bool]:
    if plan is None:
        return {}
    late = [action for action in plan if isinstance(action, CommitStates) and action.late]
    return {"reading": ResyncKernel() in plan, "committing": bool(late)}


def assert_step(table: dict[Line, Target], settings: Settings, state: State, event: Event) -> Line | None:
    """Nothing comes of the event but what it says whatever the phase, and the line. Returns that."""
    asked = Asked(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "TRANSITIONS", asked)
        taken = step(settings, state, event)
    line, (learned, changes) = asked.take_line(), learn(state, event)
    seen = (line, settings, state, event)
    if line is None:
        assert (taken.state, taken.plan, taken.changes) == (learned, None, changes), seen
        return None
    phase, make = table[line]
    retry_s = SKIPPED_COMMIT_RETRY_S if isinstance(event, ActionDone) else RETRY_AFTER_S
    assert line[0] is state.phase, seen
    assert taken.plan == PLANS[make](Move(settings, state.phase, taken.state, event.at_ns, retry_s)), seen
    if taken.plan is None:
        assert make is Make.NOTHING, seen
    else:
        assert re.fullmatch(DOES[make], ", ".join(map(words, taken.plan))), (taken.plan, seen)
    memory = remembered(line[1], settings, learned, event, taken.state.problems.get(Condition.STATES, ""))
    assert taken.state == replace(learned, **memory | about_to(taken.plan) | {"phase": phase}), seen
    more = taken.changes[len(changes) :]
    assert taken.changes == (*changes, *more), seen
    said = {change.condition for change in more}
    assert said <= ({Condition.STATES} if line[1] in OF_LIMIT else set()), seen
    return line


OF_LIMIT = (EventKind.LIMIT_OPENS, EventKind.LIMIT_HOLDS)


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_every_phase_handles_every_event_as_the_table_says(phase: Phase) -> None:
    chance = random.Random(14)
    ways: dict[Line, tuple[Row, Event]] = {}
    for row, events in RUNS:
        settings, state = settings_of(row), state_of(phase, row)
        for event in events:
            if line := assert_step(TRANSITIONS, settings, state, event):
                ways[line] = row, event
    assert ways.keys() == {line for line in TRANSITIONS if line[0] is phase}
    nothing: set[Any] = set()
    for line, (row, event) in ways.items():
        for *target, kept in itertools.product(Phase, Make, (MEANING, nothing)):
            other, same = other_row(row, kept, chance), other_event(event, KEPT, chance)
            settings, state = settings_of(other), state_of(phase, other)
            for table in TRANSITIONS, {line: tuple(target)}:
                assert_step(table, settings, state, same)


MEANING = {
    *("mode", "limit_s", "then", "promoted_ns", "commits"),
    *("role", "loaded", "whole", "put_ns", "ready", "unclean", "reading", "owed", "committing", "emptied"),
    *("exact_ns", "outside", "suspicions", "not_before_ns"),
    *("problems", Condition.REPLICATION),
}
"""What the meaning of an event, and so its line, may depend on."""

KEPT: Mapping[type, set[str]] = {
    Started: {"loaded"},
    RoleSeen: {"role"},
    RulesChanged: {"at_ns"},
    ConditionSeen: {"condition", "ok"},
    ConntrackdAsked: {"answer"},
    StatesCounted: {"at_ns", "kernel", "cached"},
    TimerFired: {"timer"},
    ActionDone: {"at_ns", "action", "outcome"},
    ActionFailed: {"at_ns", "action", "retryable"},
    LoadRules: {"rules"},
    SwitchRules: {"rules"},
    CommitStates: {"late"},
    SetStanding: {"standing"},
    Committed: {"expected", "committed", "failed", "skipped"},
    StatesIn: {"peer_heard", "losses"},
    CompareStates: {"routine"},
    Compared: {"missing", "losses", "reason"},
}
"""What of an event, its action and its outcome the line may depend on."""

PLAN: dict[Make, set[str]] = {
    Make.START: set(),
    Make.PROMOTE: {
        *("mode", "helpers", "repair", "limit_s"),
        *("loaded", "whole", "promoted_ns", "marked", "standing", "at_ns"),
    },
    Make.FOLLOW: {"mode", "repair", "preempt", "role", "whole", "marked", "standing", "before"},
    Make.OPEN: {"mode", "helpers", "repair", "whole", "owed", "marked", "standing"},
    Make.HOLD: set(),
    Make.RETRY: {"retry_s"},
    Make.ANNOUNCE: {"mode", "flushed", "owed", "marked", "refresh_s", "shortest_timeout_s"},
    Make.CATCH_UP: {"mode", "unclean"},
    Make.READY: {"kernel"},
    Make.COMPARE: {"kernel"},
    Make.COMPARE_SOON: set(),
    Make.NOT_READY: {"mode", "asked_ns", "kernel", "at_ns"},
    Make.REFRESH: {"refresh_s", "shortest_timeout_s", "kernel", "touched"},
    Make.REREAD: {"mode", "refresh_s", "shortest_timeout_s"},
    Make.WAIT: set(),
    Make.EXPECT: {"takeover_s", "whole"},
    Make.GIVE_UP: {"takeover_s"},
    Make.STAND_BACK: {"takeover_s", "preempt", "handover_ns", "at_ns"},
    Make.STAY_OPEN: {"takeover_s", "whole", "handover_ns", "at_ns"},
    Make.NOTHING: set(),
}
"""What a plan may depend on."""


def asked_line(settings: Settings, state: State, event: Event) -> list[Line]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "TRANSITIONS", table := Asked(TRANSITIONS))
        step(settings, state, event)
    return table.asked


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_a_line_depends_on_nothing_but_what_is_named(phase: Phase) -> None:
    chance = random.Random(11)
    for row, events in chance.sample(RUNS, 10):
        for event in events:
            one, other = row, other_row(row, MEANING, chance)
            same = other_event(event, KEPT, chance)
            line = asked_line(settings_of(one), state_of(phase, one), event)
            assert line == asked_line(settings_of(other), state_of(phase, other), same), (row, event, same)


@pytest.mark.parametrize("make", Make, ids=lambda make: make.value)
def test_a_plan_depends_on_nothing_but_what_is_named(make: Make) -> None:
    chance = random.Random(12)

    def some_move(row: Row, like: Move | None = None) -> Move:
        drawn: dict[str, Any] = {
            "before": chance.choice(list(Phase)),
            "at_ns": chance.choice(TIMES),
            "retry_s": chance.choice(RETRIES_S),
        }
        kept = {name: getattr(like, name) for name in drawn if like and name in PLAN[make]}
        return Move(settings_of(row), now=state_of(chance.choice(list(Phase)), row), **drawn | kept)

    for row, _ in RUNS * 6:
        move = some_move(row)
        other = some_move(other_row(row, PLAN[make], chance), move)
        assert PLANS[make](move) == PLANS[make](other), (move, other)


AFTER_LIMIT = State(Phase.PREPARING, Role.PRIMARY, RuleSet.BACKUP, whole=True)
WITHOUT_RULES = State(Phase.SERVING, Role.PRIMARY, RuleSet.PRIMARY, whole=False)
LATE = ActionFailed(NOW, CommitStates(10.0), "no answer", retryable=True)


@pytest.mark.parametrize(
    ("settings", "state", "event", "kind"),
    [
        (Settings(then=AfterLimit.OPEN), AFTER_LIMIT, LATE, EventKind.LIMIT_OPENS),
        (Settings(then=AfterLimit.CLOSED), AFTER_LIMIT, LATE, EventKind.LIMIT_HOLDS),
        (Settings(), State(), Started(NOW, RuleSet.PRIMARY), EventKind.FOUND_OPEN),
        (Settings(), State(), Started(NOW, RuleSet.BACKUP), EventKind.STARTED),
        (Settings(), State(Phase.RESUMING), RoleSeen(NOW, Role.PRIMARY, "test", NOW), EventKind.RESUMED),
        (Settings(), State(), RoleSeen(NOW, Role.PRIMARY, "test", NOW), EventKind.PROMOTED),
        (Settings(), WITHOUT_RULES, TimerFired(NOW, Timer.SETTLE), EventKind.RULES_FIRST),
        (Settings(), replace(WITHOUT_RULES, whole=True), TimerFired(NOW, Timer.SETTLE), EventKind.SETTLED),
    ],
    ids=lambda given: given.value if isinstance(given, EventKind) else "",
)
def test_what_the_pair_file_or_the_rules_decide_is_decided_before_the_look_up(
    settings: Settings, state: State, event: Event, kind: EventKind
) -> None:
    assert asked_line(settings, state, event) == [(state.phase, kind)]
