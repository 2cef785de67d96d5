# SPDX-License-Identifier: GPL-2.0-or-later
"""Single decisions, a line for each: what one event leads to, and what it leaves in the memory."""

from dataclasses import replace

import pytest

from agent.core.actions import (
    Action,
    AwaitStates,
    CommitStates,
    Committed,
    FlushCaches,
    LoadRules,
    MarkOwed,
    Plan,
    RefreshStates,
    RequestResync,
    ResyncKernel,
    SetReadiness,
    ShortenTimers,
    StartClean,
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
    SplitEnded,
    Started,
    StatesCounted,
    TimerFired,
)
from agent.core.machine import step
from agent.core.plan import (
    RETRY_AFTER_S,
    SKIPPED_COMMIT_RETRY_S,
    Settings,
    plan_catch_up,
    plan_not_ready,
    plan_open,
    plan_reread,
    plan_retry,
)
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase, State
from tests.unit.agent.core.world import CACHE, CACHE_CLOSED, DIRECT, GOOD, SECOND, SHORT, SKIPPED, World

NOW = 60 * SECOND

START = State()
RESUMING = State(Phase.RESUMING, loaded=RuleSet.PRIMARY)
FOLLOWING = State(Phase.FOLLOWING, Role.BACKUP, RuleSet.BACKUP, whole=True, ready=True)
PREPARING = State(Phase.PREPARING, Role.PRIMARY, RuleSet.BACKUP, whole=True, promoted_ns=NOW - SECOND)
SERVING = State(Phase.SERVING, Role.PRIMARY, RuleSet.PRIMARY, whole=True)
HOLDING = replace(PREPARING, phase=Phase.HOLDING, promoted_ns=0)

COMMIT = CommitStates(10.0)
SETTLE = TimerFired(NOW, Timer.SETTLE)
MISSED = ConditionSeen(NOW, Condition.REPLICATION, False, "6 messages were lost")
SPLIT = SplitEnded(NOW, "both nodes were primary")
ANSWERS = ConntrackdAsked(NOW, QueryResult.OK)

SOON, LATER = plan_retry(SKIPPED_COMMIT_RETRY_S), plan_retry(RETRY_AFTER_S)
OPEN = plan_open(CACHE, whole=True, marked=False)
NOT_READY = plan_not_ready(2.0)


def phase_of(given: object) -> str:
    return given.phase.value if isinstance(given, State) else ""


def failed(action: Action, *, retryable: bool = False) -> ActionFailed:
    return ActionFailed(NOW, action, "a reason", retryable)


def role_seen(role: Role) -> RoleSeen:
    return RoleSeen(NOW, role, "test", NOW)


def plan_of(settings: Settings, state: State, event: Event) -> Plan | None:
    return step(settings, state, event).plan


@pytest.mark.parametrize(
    ("role", "plan"),
    [
        (Role.BACKUP, plan_catch_up(DIRECT, unclean=False)),
        (Role.FAULT, None),
        (Role.STOPPED, None),
        (Role.UNKNOWN, None),
    ],
)
def test_only_a_settled_backup_asks_for_the_peers_states(role: Role, plan: Plan | None) -> None:
    assert plan_of(DIRECT, replace(FOLLOWING, role=role), SETTLE) == plan


@pytest.mark.parametrize(
    ("timer", "acts"), [(Timer.SETTLE, True), (Timer.RETRY, True), (Timer.REFRESH, False)]
)
def test_only_a_refresh_is_left_out_while_conntrackd_reads(timer: Timer, acts: bool) -> None:
    plan = plan_of(DIRECT, replace(SERVING, reading=True), TimerFired(NOW, timer))
    assert (plan is not None) is acts


@pytest.mark.parametrize("state", [START, FOLLOWING, PREPARING, SERVING, HOLDING], ids=phase_of)
@pytest.mark.parametrize("action", [LoadRules, SwitchRules, VerifyRules])
def test_rules_that_failed_are_tried_again(
    action: type[LoadRules | SwitchRules | VerifyRules], state: State
) -> None:
    assert plan_of(CACHE, state, failed(action(RuleSet.BACKUP))) == LATER


LATE_COMMIT = replace(PREPARING, promoted_ns=0)


@pytest.mark.parametrize(
    ("settings", "state", "event", "plan"),
    [
        (CACHE, PREPARING, ActionDone(NOW, COMMIT, SKIPPED), SOON),
        (CACHE, replace(PREPARING, commits=2), ActionDone(NOW, COMMIT, SKIPPED), SOON),
        (CACHE, PREPARING, ActionDone(NOW, COMMIT, SHORT), SOON),
        (CACHE, replace(PREPARING, commits=1), ActionDone(NOW, COMMIT, SHORT), OPEN),
        (CACHE, PREPARING, failed(COMMIT, retryable=True), LATER),
        (CACHE_CLOSED, PREPARING, failed(COMMIT), LATER),
        (CACHE_CLOSED, LATE_COMMIT, failed(COMMIT, retryable=True), LATER),
        (CACHE_CLOSED, LATE_COMMIT, ActionDone(NOW, COMMIT, SKIPPED), SOON),
    ],
)
def test_a_commit_is_tried_again_soon_where_conntrackd_answered(
    settings: Settings, state: State, event: Event, plan: Plan
) -> None:
    assert (SKIPPED_COMMIT_RETRY_S, RETRY_AFTER_S) == (0.05, 1.0)
    assert plan_of(settings, state, event) == plan


@pytest.mark.parametrize(
    ("state", "timeout_s"),
    [
        (PREPARING, 9.0),
        (replace(PREPARING, promoted_ns=NOW - 10 * SECOND + 1), 1e-9),
        (replace(HOLDING, promoted_ns=NOW - 10 * SECOND), 10.0),
        (replace(HOLDING, promoted_ns=NOW - 25 * SECOND), 10.0),
    ],
)
def test_a_further_commit_has_what_is_left_of_the_limit_and_after_it_all_again(
    state: State, timeout_s: float
) -> None:
    plan = plan_of(CACHE_CLOSED, state, TimerFired(NOW, Timer.RETRY))
    assert plan is not None
    assert isinstance(plan[0], CommitStates)
    assert plan[0].timeout_s == pytest.approx(timeout_s)


@pytest.mark.parametrize(
    ("settings", "state", "text"),
    [
        (CACHE, LATE_COMMIT, "within 10 s; the gate opens without them"),
        (CACHE_CLOSED, LATE_COMMIT, "within 10 s; the gate stays closed"),
        (CACHE, PREPARING, "not available (a reason); the gate opens without them"),
        (CACHE_CLOSED, PREPARING, "not available (a reason); the gate stays closed"),
    ],
)
def test_the_alarm_says_why_the_gate_decides_without_states(
    settings: Settings, state: State, text: str
) -> None:
    said = [one.text for one in step(settings, state, failed(COMMIT)).changes if text in one.text]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("state", "served"),
    [
        (START, False),
        (RESUMING, False),
        (replace(FOLLOWING, role=Role.FAULT), False),
        (PREPARING, True),
        (SERVING, True),
        (HOLDING, True),
    ],
    ids=phase_of,
)
def test_a_past_primary_lets_its_states_run_out(state: State, served: bool) -> None:
    plan = plan_of(CACHE, state, role_seen(Role.BACKUP))
    assert plan is not None
    assert (plan[-1] == ShortenTimers()) is served
    assert ShortenTimers() not in plan[:-1]


@pytest.mark.parametrize(("ready", "plan"), [(True, NOT_READY), (False, None), (None, None)])
def test_only_a_backup_that_is_ready_can_miss_states(ready: bool | None, plan: Plan | None) -> None:
    assert plan_of(DIRECT, replace(FOLLOWING, ready=ready), MISSED) == plan


@pytest.mark.parametrize("seen", [replace(MISSED, ok=True), replace(MISSED, condition=Condition.BUS)])
def test_nothing_else_that_is_seen_makes_a_backup_miss_states(seen: Event) -> None:
    assert plan_of(DIRECT, FOLLOWING, seen) is None


@pytest.mark.parametrize(
    ("action", "plan"),
    [
        (AwaitStates(30.0), NOT_READY),
        (StartClean(), NOT_READY),
        (RequestResync(), plan_not_ready(30.0)),
        (ShortenTimers(), None),
    ],
)
def test_a_catch_up_that_failed_leaves_the_node_not_ready(action: Action, plan: Plan | None) -> None:
    assert plan_of(DIRECT, FOLLOWING, failed(action)) == plan


@pytest.mark.parametrize(
    ("state", "role"),
    [
        (FOLLOWING, Role.BACKUP),
        (FOLLOWING, Role.UNKNOWN),
        (SERVING, Role.PRIMARY),
        (SERVING, Role.UNKNOWN),
        (replace(HOLDING, role=Role.UNKNOWN), Role.UNKNOWN),
    ],
)
def test_a_role_that_is_known_already_or_cannot_be_read_moves_nothing(state: State, role: Role) -> None:
    taken = step(CACHE, state, role_seen(role))
    assert (taken.plan, taken.state.phase) == (None, state.phase)


def test_a_promotion_counts_its_own_commits() -> None:
    before = replace(FOLLOWING, commits=2)
    assert step(CACHE, before, role_seen(Role.PRIMARY)).state.commits == 0
    resuming = replace(RESUMING, commits=2)
    assert step(CACHE, resuming, role_seen(Role.PRIMARY)).state.commits == 0


@pytest.mark.parametrize(
    ("settings", "state", "owed"),
    [
        (CACHE, FOLLOWING, True),
        (DIRECT, FOLLOWING, False),
        (CACHE, RESUMING, False),
        (CACHE, replace(RESUMING, owed=True), True),
        (DIRECT, replace(RESUMING, owed=True), False),
    ],
)
def test_a_promotion_owes_a_commit_and_a_resumed_one_what_was_left(
    settings: Settings, state: State, owed: bool
) -> None:
    assert step(settings, state, role_seen(Role.PRIMARY)).state.owed is owed


@pytest.mark.parametrize(
    ("whole", "loaded", "close"),
    [
        (True, RuleSet.BACKUP, ()),
        (True, RuleSet.PRIMARY, (SwitchRules(RuleSet.BACKUP),)),
        (False, RuleSet.BACKUP, (LoadRules(RuleSet.BACKUP),)),
        (False, None, (LoadRules(RuleSet.BACKUP),)),
    ],
)
def test_a_commit_is_made_behind_a_closed_gate_that_is_whole(
    whole: bool, loaded: RuleSet | None, close: Plan
) -> None:
    plan = plan_of(CACHE, replace(FOLLOWING, whole=whole, loaded=loaded), role_seen(Role.PRIMARY))
    assert plan == (*close, COMMIT, *OPEN)


@pytest.mark.parametrize(("outcome", "commits"), [(GOOD, 2), (SHORT, 2), (SKIPPED, 1)])
def test_a_commit_counts_once_it_was_made(outcome: Committed, commits: int) -> None:
    done = ActionDone(NOW, COMMIT, outcome)
    assert step(CACHE, replace(PREPARING, commits=1), done).state.commits == commits


@pytest.mark.parametrize("owed", [True, False])
def test_a_mark_that_was_found_is_known(owed: bool) -> None:
    state = step(CACHE, START, Started(NOW, RuleSet.PRIMARY, owed)).state
    assert (state.owed, state.marked) == (owed, owed)


OPEN_GATE, CLOSED_GATE = SwitchRules(RuleSet.PRIMARY), SwitchRules(RuleSet.BACKUP)
LATE = CommitStates(300.0, late=True)


@pytest.mark.parametrize(
    ("settings", "state", "event", "after"),
    [
        (CACHE, SERVING, Reloaded(NOW), LoadRules(RuleSet.PRIMARY)),
        (CACHE, PREPARING, TimerFired(NOW, Timer.RETRY), OPEN_GATE),
        (CACHE, replace(SERVING, owed=True), SETTLE, LATE),
        (CACHE, replace(SERVING, owed=True), role_seen(Role.BACKUP), CLOSED_GATE),
        (CACHE, replace(HOLDING, owed=True), role_seen(Role.FAULT), CLOSED_GATE),
        (CACHE, replace(FOLLOWING, role=Role.FAULT), role_seen(Role.BACKUP), CLOSED_GATE),
        (DIRECT, replace(SERVING, owed=True), SETTLE, SetReadiness(ready=True)),
    ],
)
def test_the_mark_is_removed_only_after_what_makes_it_void(
    settings: Settings, state: State, event: Event, after: Action
) -> None:
    """Whatever the plan is cut after, the next agent finds either the mark or nothing to do."""
    state = replace(state, flushed=False)
    plan = plan_of(settings, replace(state, marked=True), event)
    assert plan is not None
    assert after in plan[: plan.index(MarkOwed(owed=False))]
    assert FlushCaches() not in plan[: plan.index(MarkOwed(owed=False))]
    unmarked = plan_of(settings, replace(state, marked=False), event)
    assert unmarked == tuple(action for action in plan if action != MarkOwed(owed=False))


def test_the_mark_stays_while_a_commit_is_owed() -> None:
    plan = plan_of(CACHE, replace(SERVING, owed=True, marked=True), Reloaded(NOW))
    assert plan is not None
    assert not [action for action in plan if isinstance(action, MarkOwed)]


OWING = replace(SERVING, owed=True, marked=True)
LOSING = replace(SERVING, coverage=Coverage(outside=0, suspicions=1))


@pytest.mark.parametrize(
    ("settings", "state", "event", "first"),
    [
        (CACHE, OWING, ANSWERS, SetReadiness(ready=True)),
        (DIRECT, LOSING, StatesCounted(NOW, 60_000, 10), ResyncKernel()),
        (DIRECT, SERVING, SETTLE, SetReadiness(ready=True)),
        (DIRECT, SERVING, TimerFired(NOW, Timer.REFRESH), RefreshStates()),
        (DIRECT, SERVING, ConntrackdStarted(NOW), SetReadiness(ready=True)),
        (DIRECT, FOLLOWING, SPLIT, SetReadiness(ready=False)),
        (DIRECT, SERVING, SPLIT, ResyncKernel()),
        (DIRECT, FOLLOWING, SETTLE, FlushCaches()),
        (DIRECT, FOLLOWING, ConntrackdStarted(NOW), FlushCaches()),
        (DIRECT, FOLLOWING, failed(AwaitStates(30.0)), SetReadiness(ready=False)),
        (DIRECT, FOLLOWING, MISSED, SetReadiness(ready=False)),
        (
            DIRECT,
            FOLLOWING,
            ConntrackdAsked(NOW, QueryResult.UNREACHABLE, "gone"),
            SetReadiness(ready=False),
        ),
    ],
)
def test_the_rules_of_the_role_come_before_what_only_a_later_failover_needs(
    settings: Settings, state: State, event: Event, first: Action
) -> None:
    right = RuleSet(state.role.value)
    (wrong,) = set(RuleSet) - {right}
    for whole, loaded, begin in (
        (True, right, first),
        (True, wrong, SwitchRules(right)),
        (False, right, LoadRules(right)),
        (False, None, LoadRules(right)),
    ):
        plan = plan_of(settings, replace(state, whole=whole, loaded=loaded), event)
        assert plan is not None
        assert plan[0] == begin


def test_a_commit_that_is_owed_is_made_when_conntrackd_answers() -> None:
    assert LATE in (plan_of(CACHE, OWING, ANSWERS) or ())


@pytest.mark.parametrize(("settings", "commits"), [(CACHE, True), (DIRECT, False)])
def test_a_commit_is_owed_in_cache_mode_only(settings: Settings, commits: bool) -> None:
    for event in SETTLE, Reloaded(NOW):
        same = plan_of(settings, OWING, event) == plan_of(settings, replace(OWING, owed=False), event)
        assert same is not commits


@pytest.mark.parametrize("flushed", [True, False])
def test_a_settled_primary_empties_only_caches_that_are_not_empty(flushed: bool) -> None:
    plan = plan_of(CACHE, replace(SERVING, flushed=flushed), SETTLE)
    assert plan is not None
    assert (FlushCaches() in plan) is not flushed


def test_what_was_owed_in_cache_mode_is_over_in_direct_mode() -> None:
    """The gate had opened by its limit, and the pair file was changed while no agent ran."""
    world = World(DIRECT, loaded=RuleSet.PRIMARY)
    world.usable = world.marked = True
    world.handle(Started(world.tick(), RuleSet.PRIMARY, owed=True))
    world.see(Role.PRIMARY)
    world.run_dry()
    assert "CommitStates" not in world.log
    assert not world.marked
    assert not world.state.owed
    world.handle(replace(ANSWERS, at_ns=world.tick()))
    assert not world.plan, "the whole table would be read and sent at every poll"


@pytest.mark.parametrize("settings", [DIRECT, CACHE])
def test_after_a_split_the_backup_starts_clean(settings: Settings) -> None:
    """The states of the split go before the peer's come in, and keepalived does not count on them."""
    taken = step(settings, FOLLOWING, SPLIT)
    assert taken.plan == plan_catch_up(settings, unclean=True)
    assert taken.plan[:2] == (SetReadiness(ready=False), StartClean())
    usual = plan_catch_up(settings, unclean=False)
    assert taken.plan[2:] == tuple(action for action in usual if action != FlushCaches())
    done = step(settings, taken.state, ActionDone(NOW, StartClean()))
    assert not done.state.unclean
    assert plan_of(settings, done.state, SETTLE) == plan_catch_up(settings, unclean=False)


def test_a_cleaning_that_could_not_be_is_made_with_the_next_catch_up() -> None:
    unclean = step(DIRECT, FOLLOWING, SPLIT).state
    left = step(DIRECT, unclean, failed(StartClean())).state
    assert plan_of(DIRECT, left, SETTLE) == plan_catch_up(DIRECT, unclean=True)
    first = step(DIRECT, replace(FOLLOWING, whole=False), SPLIT)
    assert first.state.unclean, "the rules come first"
    assert plan_of(DIRECT, replace(first.state, whole=True), SETTLE) == plan_catch_up(DIRECT, unclean=True)


def test_a_backup_that_takes_over_keeps_the_states_that_it_has() -> None:
    unclean = replace(FOLLOWING, unclean=True)
    assert step(DIRECT, unclean, role_seen(Role.FAULT)).state.unclean
    serving = step(DIRECT, unclean, role_seen(Role.PRIMARY))
    assert not serving.state.unclean
    assert StartClean() not in (serving.plan or ())


@pytest.mark.parametrize("settings", [DIRECT, CACHE])
def test_after_a_split_the_primary_reads_its_states_again_and_sends_all(settings: Settings) -> None:
    assert plan_of(settings, SERVING, SPLIT) == plan_reread(settings)


@pytest.mark.parametrize(
    "state",
    [START, RESUMING, PREPARING, HOLDING, OWING, replace(FOLLOWING, role=Role.FAULT)],
    ids=lambda state: f"{state.phase.value}, {state.role.value}",
)
def test_a_split_that_has_ended_moves_nothing_else(state: State) -> None:
    """What comes after these reads and sends all states anyway, or there is no peer to get them from."""
    assert plan_of(CACHE, state, SPLIT) is None
