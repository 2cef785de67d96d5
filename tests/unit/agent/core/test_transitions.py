# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of transitions is the whole truth: nothing changes its answer after the look-up.

Every phase, with all the knowledge that a decision could hang on, meets every event, and what comes of it is
compared with the line of the table alone; then every line is exchanged for every other answer, and that is
what is done.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace

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
    Answer,
    ConditionSeen,
    ConntrackdAsked,
    ConntrackdStarted,
    Event,
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
ALL_SETTINGS = [Settings(mode, LIMIT_S, then) for mode, then in itertools.product(SyncMode, AfterLimit)]
ALL_SETTINGS[-1] = replace(ALL_SETTINGS[-1], helpers=True)
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
    for answer in Answer:
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
        yield ActionFailed(NOW, action, "no", False, Answer.NONE)
        yield ActionFailed(NOW, action, "no", True, Answer.REFUSED)
    for commit, late in itertools.product((GOOD, SHORT, SKIPPED), (False, True)):
        yield ActionDone(NOW, CommitStates(1.0, late), commit)
    for heard, losses in itertools.product((False, True), ("", "lost")):
        yield ActionDone(NOW, AwaitStates(1.0), StatesIn(1, heard, losses))


def every_state() -> Iterator[State]:
    """All that a step could be tempted by, in every phase: role, rules, clocks and debts."""
    roles = (Role.UNKNOWN, Role.BACKUP, Role.PRIMARY)
    for phase, role, loaded, whole, owed, late in itertools.product(
        Phase, roles, (None, *RuleSet), (False, True), (False, True), (False, True)
    ):
        yield State(
            phase=phase,
            role=role,
            loaded=loaded,
            whole=whole,
            promoted_ns=NOW - int((2 * LIMIT_S if late else LIMIT_S / 2) * 1e9),
            commits=int(late),
            ready=late,
            coverage=Coverage(outside=0, suspicions=9),
            owed=owed,
            put_ns=2,
        )


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
    f"(CompleteExpectations, )?{PUT} primary, SetTimer settle(, CompleteRemaining)?(, FlushCaches)?, "
    "VerifyRules primary"
)
REREAD = "ResyncKernel, SendBulk(, SetTimer refresh)?"
DOES = {
    Make.START: "LoadRules backup, SetReadiness False",
    Make.PROMOTE: f"(({PUT} backup, )?CommitStates, )?{OPEN}",
    Make.FOLLOW: f"{PUT} backup(, SetTimer settle)?, VerifyRules backup(, ShortenTimers)?",
    Make.OPEN: OPEN,
    Make.HOLD: "LoadRules backup, SetTimer retry",
    Make.RETRY: "SetTimer retry",
    Make.ANNOUNCE: f"SetReadiness True, (CommitStates, )?(FlushCaches, )?{REREAD}",
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


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=lambda one: f"{one.mode.value}-{one.then.value}")
def test_every_phase_meets_every_event_as_the_table_says(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Asked(TRANSITIONS)
    monkeypatch.setattr(machine, "TRANSITIONS", table)
    ways: dict[object, tuple[Line, State, Event]] = {}
    for state, event in itertools.product(every_state(), tuple(every_event())):
        table.asked.clear()
        taken = step(settings, state, event)
        lines = [line for line in table.asked if line in TRANSITIONS]
        if not lines:
            assert (taken.state.phase, taken.plan) == (state.phase, None), (state, event)
            continue
        (line,) = lines
        assert line[0] is state.phase
        assert_follows(TRANSITIONS[line], settings, state, event, taken)
        ways[line, state.whole, state.owed] = line, state, event
    for line, state, event in ways.values():
        for target in itertools.product(Phase, Make):
            monkeypatch.setattr(machine, "TRANSITIONS", {line: target})
            assert_follows(target, settings, state, event, step(settings, state, event))


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
