# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of transitions is the whole truth: nothing changes its answer after the look-up.

Every phase is given every event, with every field of `State` and `Settings` varied: each pair of values of
two fields occurs. What comes of it is compared with the line of the table alone. Then every line is
exchanged for every other answer, and that is what is done. What a line or a plan may depend on is named
here, and nothing else changes it.
"""

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from enum import Enum
from typing import Any, get_args

import pytest

from agent.core import machine
from agent.core.actions import (
    Action,
    AwaitStates,
    CommitStates,
    Committed,
    CompleteExpectations,
    CompleteRemaining,
    FlushCaches,
    LoadRules,
    MarkOwed,
    RequestResync,
    ResyncKernel,
    SendBulk,
    SetReadiness,
    SetTimer,
    ShortenTimers,
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
    ConntrackdStarted,
    Event,
    QueryResult,
    Reloaded,
    RoleSeen,
    RulesChanged,
    Started,
    StatesCounted,
    TimerFired,
)
from agent.core.machine import PLANS, TRANSITIONS, EventKind, Make, Move, Step, step
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase, State
from agent.model.pair import AfterLimit, SyncMode

NOW = 60_000_000_000
LIMIT_S = 10.0
SHORT = Committed(10, 4, 6, skipped=False, evidence="log")
SKIPPED = replace(SHORT, skipped=True)
GOOD = Committed(10, 10, 0, skipped=False, evidence="log")
ACTIONS: tuple[Action, ...] = (
    LoadRules(RuleSet.PRIMARY),
    LoadRules(RuleSet.BACKUP),
    SwitchRules(RuleSet.PRIMARY),
    SwitchRules(RuleSet.BACKUP),
    VerifyRules(RuleSet.BACKUP),
    CompleteExpectations(0.01),
    CompleteRemaining(),
    CommitStates(1.0),
    CommitStates(1.0, late=True),
    FlushCaches(),
    ResyncKernel(),
    SendBulk(),
    RequestResync(),
    AwaitStates(1.0),
    ShortenTimers(),
    SetReadiness(ready=True),
    MarkOwed(owed=True),
    SetTimer(Timer.RETRY, 1.0),
)


def every_event() -> Iterator[Event]:
    for loaded, owed in itertools.product((None, *RuleSet), (False, True)):
        yield Started(NOW, loaded, owed)
    for role in Role:
        yield RoleSeen(NOW, role, "test", NOW)
    yield RulesChanged(NOW, "gone")
    yield RulesChanged(1, "seen before the rules came back")
    yield Reloaded(NOW)
    for answer in QueryResult:
        yield ConntrackdAsked(NOW, answer, "words")
    yield ConntrackdStarted(NOW)
    yield StatesCounted(NOW, 60_000, 10)
    yield StatesCounted(NOW, 10, 10)
    for timer in Timer:
        yield TimerFired(NOW, timer)
    for condition, ok in itertools.product((Condition.REPLICATION, Condition.BUS), (False, True)):
        yield ConditionSeen(NOW, condition, ok, "words")
    for action in ACTIONS:
        yield ActionDone(NOW, action)
        yield ActionFailed(NOW, action, "no", False, QueryResult.NONE)
        yield ActionFailed(NOW, action, "no", True, QueryResult.REFUSED)
    for commit, late in itertools.product((GOOD, SHORT, SKIPPED), (False, True)):
        yield ActionDone(NOW, CommitStates(1.0, late), commit)
    for heard, losses in itertools.product((False, True), ("", "lost")):
        yield ActionDone(NOW, AwaitStates(1.0), StatesIn(1, heard, losses))


VALUES: Mapping[str | Condition, tuple[Any, ...]] = {
    "mode": tuple(SyncMode),
    "limit_s": (LIMIT_S, 3.0),
    "then": tuple(AfterLimit),
    "refresh_s": (None, 5.0),
    "shortest_timeout_s": (30.0, 3.0),
    "repair": (False, True),
    "helpers": (False, True),
    "role": tuple(Role),
    "loaded": (None, *RuleSet),
    "whole": (False, True),
    "promoted_ns": (NOW - int(2 * LIMIT_S * 1e9), NOW - int(LIMIT_S / 2 * 1e9)),
    "commits": (0, 1, 2),
    "flushed": (False, True),
    "states": (0, 10, 1_000_000),
    "problems": (False, True),  # whether there are any; which ones: the conditions below
    "ready": (None, False, True),
    "reading": (False, True),
    "owed": (False, True),
    "marked": (False, True),
    "committing": (False, True),
    "put_ns": (0, 2),  # before and after the event of RulesChanged at 1
    "asked_ns": (0, NOW - 1_000_000_000),
    "kernel": (0, 1_000_000),
    "exact_ns": (0, NOW + 1),
    "outside": (None, 0, 50),
    "suspicions": (0, 1, 9),
    "asked": (False, True),
    "not_before_ns": (0, NOW + 1),
    **dict.fromkeys(Condition, (False, True)),
}
"""All that a step could be tempted by, beside phase and event."""

Row = dict[str | Condition, Any]


def every_row() -> list[Row]:
    """So many that every value of a field occurs with every value of every other field."""
    chance = random.Random(10)
    left = {
        (one, first, other, second)
        for one, other in itertools.combinations(VALUES, 2)
        for first, second in itertools.product(VALUES[one], VALUES[other])
    }
    rows = []
    while left:
        rows.append(some_row(chance))
        left -= {(*one, *other) for one, other in itertools.combinations(rows[-1].items(), 2)}
    return rows


def some_row(chance: random.Random) -> Row:
    return {name: chance.choice(values) for name, values in VALUES.items()}


def settings_of(row: Row) -> Settings:
    return Settings(**{field.name: row[field.name] for field in fields(Settings)})


def state_of(phase: Phase, row: Row) -> State:
    plain = {field.name: row[field.name] for field in fields(State) if field.name in row}
    coverage = Coverage(**{field.name: row[field.name] for field in fields(Coverage)})
    problems = {condition: "words" for condition in Condition if row["problems"] and row[condition]}
    return State(**plain | {"phase": phase, "coverage": coverage, "problems": problems})


ROWS = every_row()
EVENTS = tuple(every_event())


def test_every_field_that_a_decision_could_hang_on_is_varied() -> None:
    known = [field for owner in (Settings, State, Coverage) for field in fields(owner)]
    varied = {name for name in VALUES if isinstance(name, str)}
    assert len({field.name for field in known}) == len(known), "one name for two fields"
    assert {field.name for field in known} == varied | {"phase", "coverage"}
    for name, values in VALUES.items():
        assert len(set(values)) > 1, name
        if isinstance(values[-1], Enum):
            assert set(values) >= set(type(values[-1])), name
    assert {type(event) for event in EVENTS} == set(get_args(Event))
    assert {type(action) for action in ACTIONS} == set(get_args(Action))


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


PUT = "(Load|Switch)Rules"
OPEN = (
    f"(MarkOwed True, )?(CompleteExpectations, )?{PUT} primary, SetTimer settle"
    "(, MarkOwed False)?(, CompleteRemaining)?(, FlushCaches)?"
    "(, VerifyRules primary)?"
)
REREAD = "ResyncKernel, SendBulk(, SetTimer refresh)?"
DOES = {
    Make.START: "LoadRules backup, SetReadiness False",
    Make.PROMOTE: f"(({PUT} backup, )?CommitStates, )?{OPEN}",
    Make.FOLLOW: (
        f"{PUT} backup(, SetTimer settle)?(, MarkOwed False)?(, VerifyRules backup)?(, ShortenTimers)?"
    ),
    Make.OPEN: OPEN,
    Make.HOLD: "LoadRules backup, SetTimer retry",
    Make.RETRY: "SetTimer retry",
    Make.ANNOUNCE: f"SetReadiness True, (CommitStates, )?(MarkOwed False, )?(FlushCaches, )?{REREAD}",
    Make.CATCH_UP: "RequestResync, AwaitStates, SetReadiness True",
    Make.NOT_READY: "SetReadiness False, SetTimer retry",
    Make.REFRESH: "SetTimer refresh, SendBulk",
    Make.REREAD: REREAD,
    Make.WAIT: "",
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
        case SetTimer():
            return f"{name} {action.timer.value}"
        case _:
            return name


def assert_follows(target: Target, settings: Settings, state: State, event: Event, taken: Step) -> None:
    phase, make = target
    seen = (target, settings, state, event)
    assert taken.state.phase is phase, seen
    assert taken.plan == PLANS[make](Move(settings, state, taken.state, event)), seen
    if taken.plan is None:
        assert make is Make.NOTHING, seen
    else:
        assert re.fullmatch(DOES[make], ", ".join(map(words, taken.plan))), (taken.plan, seen)


def line_of(table: Asked) -> Line | None:
    lines = [line for line in table.asked if line in TRANSITIONS]
    assert len(lines) < 2
    return lines[0] if lines else None


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_every_phase_handles_every_event_as_the_table_says(
    phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Asked(TRANSITIONS)
    monkeypatch.setattr(machine, "TRANSITIONS", table)
    ways: dict[object, tuple[Line, Settings, State, Event]] = {}
    for row in ROWS:
        settings, state = settings_of(row), state_of(phase, row)
        for event in EVENTS:
            table.asked.clear()
            taken = step(settings, state, event)
            line = line_of(table)
            if line is None:
                assert (taken.state.phase, taken.plan) == (phase, None), (settings, state, event)
                continue
            assert line[0] is phase
            assert_follows(TRANSITIONS[line], settings, state, event, taken)
            ways[line, state.whole, state.owed] = line, settings, state, event
    assert {line for line, *_ in ways.values()} == {line for line in TRANSITIONS if line[0] is phase}
    for line, settings, state, event in ways.values():
        for target in itertools.product(Phase, Make):
            monkeypatch.setattr(machine, "TRANSITIONS", {line: target})
            assert_follows(target, settings, state, event, step(settings, state, event))


MEANING = {
    *("limit_s", "then"),
    *(
        "role",
        "loaded",
        "whole",
        "promoted_ns",
        "commits",
        "ready",
        "reading",
        "owed",
        "committing",
        "put_ns",
    ),
    *("exact_ns", "outside", "suspicions", "not_before_ns"),
    *("problems", Condition.REPLICATION),
}
"""What the meaning of an event, and so its line, may depend on."""

BULK = {"refresh_s", "shortest_timeout_s", "states"}
PLAN: dict[Make, set[str]] = {
    Make.START: set(),
    Make.PROMOTE: {"mode", "helpers", "repair", "limit_s", "loaded", "whole", "promoted_ns", "marked"},
    Make.FOLLOW: {"mode", "repair", "role", "whole", "marked"},
    Make.OPEN: {"mode", "helpers", "repair", "whole", "owed", "marked"},
    Make.HOLD: set(),
    Make.RETRY: set(),
    Make.ANNOUNCE: {"mode", "flushed", "owed", "marked", *BULK},
    Make.CATCH_UP: set(),
    Make.NOT_READY: {"mode", "asked_ns", "kernel"},
    Make.REFRESH: BULK,
    Make.REREAD: {"mode", *BULK},
    Make.WAIT: set(),
    Make.NOTHING: set(),
}
"""What a plan may depend on, beside the phases and the event."""


def others(row: Row, kept: set[Any], chance: random.Random) -> Row:
    return {name: row[name] if name in kept else value for name, value in some_row(chance).items()}


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_a_line_depends_on_nothing_but_what_is_named(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    table, chance = Asked(TRANSITIONS), random.Random(11)
    monkeypatch.setattr(machine, "TRANSITIONS", table)
    for row, event in itertools.product(chance.sample(ROWS, 10), EVENTS):
        lines = []
        for either in (row, others(row, MEANING, chance)):
            table.asked.clear()
            step(settings_of(either), state_of(phase, either), event)
            lines.append(line_of(table))
        assert lines[0] == lines[1], (phase, event, row)


@pytest.mark.parametrize("make", Make, ids=lambda make: make.value)
def test_a_plan_depends_on_nothing_but_what_is_named(make: Make) -> None:
    chance = random.Random(12)
    for row, before in itertools.product(ROWS, Phase):
        now, event = chance.choice(tuple(Phase)), chance.choice(EVENTS)
        made = [
            PLANS[make](Move(settings_of(one), state_of(before, one), state_of(now, one), event))
            for one in (row, others(row, set(PLAN[make]), chance))
        ]
        assert made[0] == made[1], (make, before, now, event, row)


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
    settings: Settings, state: State, event: Event, kind: EventKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Asked(TRANSITIONS)
    monkeypatch.setattr(machine, "TRANSITIONS", table)
    step(settings, state, event)
    assert table.asked == [(state.phase, kind)]
