# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of conditions, whole: each begins and ends by one observation, and by nothing else."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.core.actions import (
    Action,
    AwaitStates,
    CommitStates,
    FlushCaches,
    LoadRules,
    Outcome,
    RequestResync,
    Reread,
    ResyncKernel,
    SendBulk,
    SetReadiness,
    ShortenTimers,
    StartClean,
    StatesIn,
    SwitchRules,
    Timer,
    VerifyRules,
)
from agent.core.conditions import CONDITIONS, Condition, Observation, Severity, severity_of
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
    StatesCounted,
    TimerFired,
)
from agent.core.machine import step
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase, State
from agent.model.pair import AfterLimit, SyncMode
from tests.unit.agent.core.world import GOOD, SHORT

By = Observation
NOW = 100_000_000_000
RULES: tuple[Action, ...] = (
    LoadRules(RuleSet.PRIMARY),
    SwitchRules(RuleSet.PRIMARY),
    VerifyRules(RuleSet.PRIMARY),
)
ASKED: dict[Action, Outcome | None] = {
    CommitStates(1.0): GOOD,
    FlushCaches(): None,
    ResyncKernel(): Reread(10, 10, 10),
    StartClean(): None,
    RequestResync(): None,
    AwaitStates(1.0): StatesIn(10, peer_heard=True),
    ShortenTimers(): None,
}
OF_ACTION: dict[type[Action], Observation] = {
    CommitStates: By.COMMIT,
    FlushCaches: By.FLUSH,
    StartClean: By.FLUSH,
    ResyncKernel: By.COUNT,
}


def observed_by_actions() -> Iterator[tuple[Event, set[Observation]]]:
    for action in RULES:
        yield ActionDone(NOW, action), {By.RULES}
        yield ActionFailed(NOW, action, "nft refused it"), {By.RULES}
    for action, outcome in ASKED.items():
        looks = {By.QUESTION} | ({OF_ACTION[type(action)]} if type(action) in OF_ACTION else set())
        # nothing can be lost of what was not waited for
        over = {By.LOSSES} if isinstance(action, AwaitStates) else set()
        yield ActionDone(NOW, action, outcome), looks | over
        for answer in QueryResult:
            yield ActionFailed(NOW, action, "a reason", False, answer), looks
            yield ActionFailed(NOW, action, "a reason", True, answer), looks
    yield ActionDone(NOW, CommitStates(1.0), SHORT), {By.QUESTION, By.COMMIT}
    yield ActionDone(NOW, CommitStates(1.0), replace(GOOD, skipped=True)), {By.QUESTION, By.COMMIT}
    yield ActionDone(NOW, ResyncKernel(), Reread(10, 5000, 5000)), {By.QUESTION, By.COUNT}
    lossy = StatesIn(10, peer_heard=True, losses="6 messages were lost")
    yield ActionDone(NOW, AwaitStates(1.0), lossy), {By.QUESTION, By.LOSSES}
    yield ActionDone(NOW, AwaitStates(1.0), StatesIn(0, peer_heard=False)), {By.QUESTION}
    yield ActionDone(NOW, SetReadiness(ready=True)), set()
    yield ActionFailed(NOW, SetReadiness(ready=True), "read-only"), set()


def observed() -> Iterator[tuple[Event, set[Observation]]]:
    """Everything that can happen, with the observations that it is."""
    yield from observed_by_actions()
    yield RulesChanged(NOW, "the table is gone"), {By.RULES}
    for answer in QueryResult:
        yield ConntrackdAsked(NOW, answer, "a reason"), {By.QUESTION}
    for kernel, cached in ((10, 10), (5000, 10)):
        yield StatesCounted(NOW, kernel, cached), {By.COUNT}
    for condition, line in CONDITIONS.items():
        for ok in (True, False):
            yield ConditionSeen(NOW, condition, ok, "words"), {line.observation}
    yield ConntrackdStarted(NOW), set()
    yield SplitEnded(NOW, "words"), set()
    yield Reloaded(NOW), set()
    for timer in Timer:
        yield TimerFired(NOW, timer), set()
    yield RoleSeen(NOW, Role.PRIMARY, "test", NOW), set()


def situations() -> Iterator[tuple[Settings, State]]:
    """A node in each phase; the commit's limit is over, and -R was asked for because states were missing."""
    coverage = Coverage(outside=0, asked=True)
    for mode in SyncMode:
        for then in AfterLimit:
            for phase in Phase:
                yield (
                    Settings(mode=mode, limit_s=1.0, then=then),
                    State(phase, Role.PRIMARY, RuleSet.PRIMARY, whole=True, coverage=coverage),
                )


def test_every_condition_has_its_line() -> None:
    assert list(CONDITIONS) == list(Condition)
    assert {line.observation for line in CONDITIONS.values()} == set(Observation)
    assert {line.severity for line in CONDITIONS.values()} == set(Severity)


def test_an_event_begins_and_ends_only_what_it_observes() -> None:
    for settings, state in situations():
        for event, looks in observed():
            after = step(settings, state, event).state
            begun = {
                condition for condition in after.problems if CONDITIONS[condition].observation not in looks
            }
            assert begun == set(), event
            open_all = replace(state, problems=dict.fromkeys(Condition, "words"))
            left = step(settings, open_all, event).state
            ended = set(Condition) - left.problems.keys()
            assert {c for c in ended if CONDITIONS[c].observation not in looks} == set(), event


@pytest.mark.parametrize("condition", Condition)
def test_every_condition_can_begin_and_end(condition: Condition) -> None:
    """By its own observation, and said once each way."""
    observation = CONDITIONS[condition].observation
    events = [event for event, looks in observed() if observation in looks]
    if observation in INSIDE:
        events = [event for event in events if not isinstance(event, ConditionSeen)]
    begins, ends = [], []
    for settings, state in situations():
        for event in events:
            begun = step(settings, state, event)
            ill = replace(state, problems={condition: "words"})
            over = step(settings, ill, event)
            begins += [change for change in begun.changes if change.condition is condition and not change.ok]
            ends += [change for change in over.changes if change.condition is condition and change.ok]
            again = step(settings, begun.state, event)
            assert not [one for one in again.changes if one.condition is condition and not one.ok], event
    assert begins, "it is out of reach"
    assert ends, "it never ends"
    assert all(change.text for change in (*begins, *ends))


INSIDE = {By.QUESTION, By.COMMIT, By.FLUSH, By.COUNT}
"""What the core itself reads out of what conntrackd did; all else is posted by what looks."""


def test_what_was_about_a_role_is_over_with_it() -> None:
    for role in (Role.BACKUP, Role.FAULT, Role.STOPPED):
        state = State(Phase.SERVING, Role.PRIMARY, problems=dict.fromkeys(Condition, "words"))
        left = step(Settings(), state, RoleSeen(NOW, role, "test", NOW)).state
        assert set(Condition) - left.problems.keys() == {one for one in Condition if CONDITIONS[one].of_role}


def test_a_refused_flush_is_not_over_because_conntrackd_answers_something_else() -> None:
    settings = Settings(mode=SyncMode.CACHE)
    state = State(Phase.SERVING, Role.PRIMARY, RuleSet.PRIMARY, whole=True)
    said = []
    for event in (
        ActionFailed(NOW, FlushCaches(), "a commit was still running", retryable=True),
        ActionDone(NOW, SendBulk()),
        ConntrackdAsked(NOW, QueryResult.OK),
        ActionFailed(NOW, FlushCaches(), "a commit was still running", retryable=True),
        ActionDone(NOW, FlushCaches()),
    ):
        taken = step(settings, state, event)
        state = taken.state
        said += [(change.condition, change.ok) for change in taken.changes]
    assert said == [(Condition.FLUSH, False), (Condition.FLUSH, True)]


def test_one_that_hangs_is_not_called_dead() -> None:
    state = step(Settings(), State(), ConntrackdAsked(NOW, QueryResult.NONE, "no answer within 5 s")).state
    assert state.problems.keys() == {Condition.CONNTRACKD_SILENT}
    state = step(Settings(), state, ConntrackdAsked(NOW, QueryResult.UNREACHABLE, "cannot connect")).state
    assert state.problems.keys() == {Condition.CONNTRACKD}
    assert step(Settings(), state, ConntrackdAsked(NOW, QueryResult.OK)).state.problems == {}


def test_the_newest_words_are_kept() -> None:
    state = State()
    for text in ("one address is missing", "two addresses are missing"):
        taken = step(Settings(), state, ConditionSeen(NOW, Condition.BUS, False, text))
        state = taken.state
    assert taken.changes == ()
    assert state.problems == {Condition.BUS: "two addresses are missing"}


def test_every_reload_that_is_refused_for_something_else_is_answered() -> None:
    state, said = State(), []
    for text in ("x: unknown key", "x: unknown key", "y: unknown key"):
        taken = step(Settings(), state, ConditionSeen(NOW, Condition.CONFIGURATION, False, text))
        state = taken.state
        said += [(change.ok, change.text) for change in taken.changes]
    taken = step(Settings(), state, ConditionSeen(NOW, Condition.CONFIGURATION, True, "good again"))
    said += [(change.ok, change.text) for change in taken.changes]
    assert said == [(False, "x: unknown key"), (False, "y: unknown key"), (True, "good again")]


def test_the_exit_status_of_a_condition() -> None:
    assert severity_of("bus") == 1
    assert severity_of("rules") == 2
    assert severity_of("of a later version") == 1
