# SPDX-License-Identifier: GPL-2.0-or-later
"""What each event teaches, whatever the phase: these fields of the memory, and no others."""

from dataclasses import replace
from typing import Any

import pytest

from agent.core.actions import (
    Action,
    AwaitStates,
    CommitStates,
    CompareStates,
    CompleteExpectations,
    CompleteRemaining,
    FlushCaches,
    LoadRules,
    MarkOwed,
    Refreshed,
    RefreshStates,
    RequestResync,
    Reread,
    ResyncKernel,
    SendBulk,
    SetReadiness,
    SetTimer,
    ShortenTimers,
    StartClean,
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
    SplitEnded,
    Started,
    StatesCounted,
    TimerFired,
)
from agent.core.roles import Role, RuleSet, Standing
from agent.core.state import Phase, State, learn
from tests.unit.agent.core.world import GOOD, LACKING, SHORT, SKIPPED, WHOLE

NOW = 60_000_000_000
PUT_NS = 4
COMMIT, LATE = CommitStates(10.0), CommitStates(300.0, late=True)
COUNTED = Coverage(exact_ns=1, outside=5, suspicions=1, not_before_ns=2)

PRIMARY = State(
    Phase.SERVING,
    Role.PRIMARY,
    RuleSet.PRIMARY,
    whole=True,
    promoted_ns=3,
    commits=1,
    flushed=False,
    touched=7,
    ready=False,
    coverage=COUNTED,
    reading=True,
    owed=True,
    marked=False,
    committing=True,
    put_ns=PUT_NS,
    asked_ns=5,
    kernel=6,
    unclean=True,
)


def done(action: Action, outcome: Any = None) -> ActionDone:
    return ActionDone(NOW, action, outcome)


def failed(action: Action, answer: QueryResult = QueryResult.NONE) -> ActionFailed:
    return ActionFailed(NOW, action, "a reason", answer=answer)


LEARNED: tuple[tuple[Event, dict[str, Any]], ...] = (
    (Started(NOW, RuleSet.BACKUP, owed=True), {"loaded": RuleSet.BACKUP, "owed": True, "marked": True}),
    (Started(NOW, None), {"loaded": None, "owed": False, "marked": False}),
    (
        Started(NOW, RuleSet.PRIMARY, owed=True, standing=Standing.STANDS_BACK),
        {"marked": True, "standing": Standing.STANDS_BACK},
    ),
    (RoleSeen(NOW, Role.BACKUP, "test", NOW), {"role": Role.BACKUP, "coverage": Coverage()}),
    (RoleSeen(NOW, Role.PRIMARY, "test", NOW), {}),
    (RulesChanged(NOW, "gone"), {"whole": False}),
    (RulesChanged(PUT_NS - 1, "seen before the rules were put in force"), {}),
    (RulesChanged(PUT_NS, "seen just after that"), {"whole": False}),
    (Reloaded(NOW), {"whole": False}),
    (ConditionSeen(NOW, Condition.BUS, False, "words"), {}),
    (ConntrackdAsked(NOW, QueryResult.OK), {}),
    (ConntrackdAsked(NOW, QueryResult.NONE, "words"), {}),
    (ConntrackdStarted(NOW), {"coverage": Coverage()}),
    (StatesCounted(NOW, 1000, 995), {"kernel": 1000, "coverage": replace(COUNTED, suspicions=0)}),
    (StatesCounted(NOW, 1000, 0), {"kernel": 1000, "coverage": replace(COUNTED, suspicions=2)}),
    (SplitEnded(NOW, "words"), {}),
    *((TimerFired(NOW, timer), {}) for timer in Timer),
    (done(LoadRules(RuleSet.BACKUP)), {"loaded": RuleSet.BACKUP, "whole": True, "put_ns": NOW}),
    (failed(LoadRules(RuleSet.BACKUP)), {"whole": False}),
    (done(SwitchRules(RuleSet.BACKUP)), {"loaded": RuleSet.BACKUP}),
    (failed(SwitchRules(RuleSet.BACKUP)), {"whole": False}),
    (done(VerifyRules(RuleSet.PRIMARY)), {}),
    (failed(VerifyRules(RuleSet.PRIMARY)), {"whole": False}),
    (done(COMMIT, GOOD), {"commits": 2, "owed": False}),
    (done(COMMIT, SKIPPED), {}),
    (failed(COMMIT), {}),
    (done(LATE, GOOD), {"commits": 2, "owed": False, "committing": False}),
    (done(LATE, SKIPPED), {"committing": False}),
    (failed(LATE), {"committing": False}),
    (done(FlushCaches()), {"flushed": True}),
    (failed(FlushCaches()), {}),
    (
        done(ResyncKernel(), Reread(10, 10, 30)),
        {"reading": False, "coverage": Coverage(NOW, 20, not_before_ns=NOW)},
    ),
    (failed(ResyncKernel()), {"reading": False}),
    (done(SendBulk()), {}),
    (failed(SendBulk()), {}),
    (done(RefreshStates(), Refreshed(1000)), {"touched": 1000}),
    (failed(RefreshStates()), {}),
    (done(RequestResync()), {"asked_ns": NOW}),
    (failed(RequestResync()), {"asked_ns": NOW}),
    (done(AwaitStates(1.0), StatesIn(10, peer_heard=True)), {}),
    (failed(AwaitStates(1.0)), {}),
    (done(StartClean()), {"flushed": True, "unclean": False, "emptied": True}),
    (failed(StartClean()), {}),
    (done(CompareStates(), WHOLE), {}),
    (done(CompareStates(), LACKING), {}),
    (failed(CompareStates()), {}),
    (done(ShortenTimers()), {}),
    (failed(ShortenTimers()), {}),
    (done(SetReadiness(ready=True)), {"ready": True}),
    (failed(SetReadiness(ready=True)), {"ready": True}),
    (done(MarkOwed(owed=True)), {"marked": True}),
    (failed(MarkOwed(owed=True)), {}),
    *(
        (end(action), {})
        for action in (SetTimer(Timer.RETRY, 1.0), CompleteExpectations(0.01), CompleteRemaining())
        for end in (done, failed)
    ),
)


@pytest.mark.parametrize(("event", "fields"), LEARNED, ids=lambda given: type(given).__name__)
def test_an_event_teaches_this_and_no_more(event: Event, fields: dict[str, Any]) -> None:
    state = learn(PRIMARY, event)[0]
    assert state == replace(PRIMARY, **fields, problems=state.problems)


@pytest.mark.parametrize(
    ("event", "owed"), [(failed(COMMIT), True), (done(COMMIT, SKIPPED), False), (done(COMMIT, SHORT), False)]
)
def test_only_a_commit_that_failed_is_owed_again(event: Event, owed: bool) -> None:
    assert learn(replace(PRIMARY, owed=False), event)[0].owed is owed


ALL = dict.fromkeys(Condition, "words")


@pytest.mark.parametrize(
    ("event", "begun"),
    [
        (failed(FlushCaches(), QueryResult.REFUSED), {Condition.FLUSH}),
        (failed(StartClean(), QueryResult.REFUSED), {Condition.FLUSH}),
        (failed(FlushCaches(), QueryResult.NONE), {Condition.CONNTRACKD_SILENT}),
        (failed(FlushCaches(), QueryResult.UNREACHABLE), {Condition.CONNTRACKD}),
        (failed(SendBulk(), QueryResult.REFUSED), {Condition.CONNTRACKD_UNCLEAR}),
        (failed(VerifyRules(RuleSet.PRIMARY)), {Condition.RULES}),
        (RulesChanged(NOW, "gone"), {Condition.RULES}),
        (failed(SetTimer(Timer.RETRY, 1.0)), set()),
    ],
)
def test_what_goes_wrong_begins_these_conditions(event: Event, begun: set[Condition]) -> None:
    assert learn(PRIMARY, event)[0].problems.keys() == begun


@pytest.mark.parametrize(
    ("action", "over"),
    [
        (LoadRules(RuleSet.BACKUP), {Condition.RULES}),
        (SwitchRules(RuleSet.BACKUP), set()),
        (VerifyRules(RuleSet.PRIMARY), set()),
    ],
)
def test_only_a_load_puts_the_rules_in_force_again(action: Action, over: set[Condition]) -> None:
    left = learn(replace(PRIMARY, problems=ALL), done(action))[0].problems
    assert ALL.keys() - left.keys() == over


@pytest.mark.parametrize(
    ("coverage", "cached", "over"),
    [
        (Coverage(), 1000, False),
        (Coverage(outside=0), 0, False),
        (Coverage(outside=0), 1000, True),
    ],
    ids=["nothing is known", "states are missing", "all are there"],
)
def test_states_are_no_longer_lost_once_a_count_shows_it(
    coverage: Coverage, cached: int, over: bool
) -> None:
    state = replace(PRIMARY, coverage=coverage, problems=ALL)
    left = learn(state, StatesCounted(NOW, 1000, cached))[0].problems
    assert ALL.keys() - left.keys() == ({Condition.LOST_EVENTS} if over else set())


def test_what_was_read_again_after_a_loss_is_known() -> None:
    state = replace(PRIMARY, coverage=replace(COUNTED, asked=True))
    state, _ = learn(state, done(ResyncKernel(), Reread(10, 5000, 5030)))
    assert state.coverage == Coverage(NOW, 30, not_before_ns=NOW)
    assert Condition.LOST_EVENTS in state.problems


def test_conntrackd_that_answers_again_is_said_in_words() -> None:
    state = replace(PRIMARY, problems=ALL)
    said = {
        change.condition: change.text for change in learn(state, ConntrackdAsked(NOW, QueryResult.OK))[1]
    }
    assert said == {
        Condition.CONNTRACKD: "conntrackd can be reached again",
        Condition.CONNTRACKD_SILENT: "conntrackd answers again",
        Condition.CONNTRACKD_UNCLEAR: "conntrackd's answers are valid again",
    }


@pytest.mark.parametrize(
    ("event", "condition", "text"),
    [
        (done(COMMIT, GOOD), Condition.STATES, "all 10 states that conntrackd had are in the kernel"),
        (done(COMMIT, SHORT), Condition.STATES, "only 4 of 10 states came into the kernel (6 refused); "),
        (done(COMMIT, SKIPPED), Condition.STATES, "conntrackd skipped the commit"),
        (
            done(AwaitStates(1.0), StatesIn(10, peer_heard=True)),
            Condition.REPLICATION,
            "all of the peer's states have arrived, and nothing was lost",
        ),
        (
            done(AwaitStates(1.0), StatesIn(10, peer_heard=True, losses="6 messages were lost")),
            Condition.REPLICATION,
            "6 messages were lost while all states were sent again; they are requested again",
        ),
    ],
)
def test_what_came_of_the_states_is_said_in_words(event: Event, condition: Condition, text: str) -> None:
    over = learn(replace(PRIMARY, problems=ALL), event)[1]
    begun = learn(PRIMARY, event)[1]
    assert [change.condition for change in (*over, *begun) if change.text.startswith(text)] == [condition]
