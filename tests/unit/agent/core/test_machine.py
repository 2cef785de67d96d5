# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine: its table, its plans, and that every plan may be cut anywhere."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.core import machine
from agent.core.actions import CommitStates
from agent.core.conditions import Condition
from agent.core.events import (
    ActionFailed,
    ConditionSeen,
    QueryResult,
    RoleSeen,
    RulesChanged,
    Started,
)
from agent.core.machine import TRANSITIONS, step
from agent.core.moves import EventKind, Make
from agent.core.roles import Role, RuleSet, Standing
from agent.core.state import Phase, State
from tests.unit.agent.core.stories import ACTIONS, ALL, EVENTS, expecting, handing, happen, make_world
from tests.unit.agent.core.world import CACHE, DIRECT, SECOND, WHOLE, World


def assert_safe(world: World) -> None:
    """Nothing is broken any more and all is quiet: gate, rules and phase are those of the role."""
    world.run_dry()
    if world.state.role is Role.UNKNOWN:
        return
    primary = world.state.role is Role.PRIMARY
    assert world.loaded is (RuleSet.PRIMARY if primary else RuleSet.BACKUP), world.log
    assert world.state.phase is (Phase.SERVING if primary else Phase.FOLLOWING), world.log
    assert world.state.loaded is world.loaded
    assert world.state.standing is not Standing.GIVES_UP, world.log
    assert not primary or world.state.standing is Standing.TAKES_PART, world.log


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("loaded", [None, RuleSet.BACKUP, RuleSet.PRIMARY])
def test_every_plan_may_be_cut_after_every_action_and_followed_by_every_event(
    name: str, loaded: RuleSet | None
) -> None:
    seen: set[str] = set()
    for first in EVENTS:
        story = make_world(name, loaded)
        story.see(Role.BACKUP if first == "primary" else Role.PRIMARY)
        for cut in story.cuts():
            happen(cut, first)
            for second_cut in cut.cuts():
                if (same := second_cut.future) in seen:
                    continue  # by way of another event or cut
                seen.add(same)
                for second in EVENTS:
                    world = second_cut.copy()
                    happen(world, second)
                    assert_safe(world)
    assert len(seen) > 100, "the cuts are not made"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("broken", ACTIONS)
@pytest.mark.parametrize("role", [Role.PRIMARY, Role.BACKUP])
def test_every_action_may_fail(name: str, broken: str, role: Role) -> None:
    world = make_world(name)
    world.see(Role.BACKUP)
    world.run_dry()
    world.broken = frozenset({broken})
    world.see(role)
    world.work(20)
    happen(world, "drift")
    world.work(20)
    for timer in sorted(world.timers, key=lambda timer: timer.value):
        happen(world, timer.value)
        world.work(20)
    world.broken = frozenset()
    happen(world, "retry")
    assert_safe(world)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(ALL)),
    loaded=st.sampled_from([None, RuleSet.BACKUP, RuleSet.PRIMARY]),
    story=st.lists(
        st.tuples(
            st.sampled_from(sorted(EVENTS)),
            st.integers(0, 9),
            st.frozensets(st.sampled_from(ACTIONS), max_size=2),
            st.booleans(),
        ),
        max_size=12,
    ),
)
@example(
    name="cache",
    loaded=None,
    story=[
        ("announced", 1, frozenset(), False),
        ("backup", 0, frozenset(), False),
        ("split-ended", 1, frozenset({"SetReadiness"}), False),
        ("announced", 1, frozenset(), False),
    ],
)
def test_any_story_ends_in_safety(
    name: str, loaded: RuleSet | None, story: list[tuple[str, int, frozenset[str], bool]]
) -> None:
    world = make_world(name, loaded)
    for event, cut, broken, short in story:
        world.broken, world.short = broken, short
        happen(world, event)
        world.work(cut)
    world.broken, world.short = frozenset(), False
    # an agent that has lost rules or states tries again by itself; a poll would see the role
    happen(world, "retry")
    assert_safe(world)


def test_direct_takeover_opens_first_and_announces_later() -> None:
    world = make_world("direct")
    world.see(Role.BACKUP)
    world.run_dry()
    world.log.clear()
    world.see(Role.PRIMARY)
    world.work()
    assert world.log == ["SwitchRules primary", "SetTimer", "VerifyRules"]
    assert world.state.phase is Phase.SERVING
    world.run_dry()
    assert world.log[3:] == ["SetReadiness", "ResyncKernel", "SendBulk", "SetTimer"]


def test_cache_takeover_commits_before_it_opens() -> None:
    world = make_world("cache")
    world.see(Role.BACKUP)
    world.run_dry()
    world.log.clear()
    world.see(Role.PRIMARY)
    world.work()
    assert world.log == ["CommitStates", "SwitchRules primary", "SetTimer", "FlushCaches", "VerifyRules"]


def test_agent_that_comes_back_on_a_serving_primary_does_not_commit() -> None:
    world = make_world("cache", RuleSet.PRIMARY)
    world.see(Role.PRIMARY)
    world.run_dry()
    assert "CommitStates" not in world.log
    assert "LoadRules backup" not in world.log


def test_skipped_commit_is_found_and_asked_for_again() -> None:
    world = make_world("cache")
    world.see(Role.BACKUP)
    world.run_dry()
    world.skipped = True
    world.see(Role.PRIMARY)
    world.work()
    assert world.state.phase is Phase.PREPARING
    assert [change.condition for change in world.changes] == [Condition.STATES]
    world.skipped = False
    assert_safe(world)


def test_partial_commit_is_tried_twice_and_then_opens_with_an_alarm() -> None:
    world = make_world("cache")
    world.see(Role.BACKUP)
    world.run_dry()
    world.short = True
    world.log.clear()
    world.see(Role.PRIMARY)
    world.run_dry()
    assert world.log.count("CommitStates") == 2
    assert world.state.phase is Phase.SERVING
    assert "only 4 of 10 states" in world.changes[-1].text
    assert Condition.STATES in world.state.problems


@pytest.mark.parametrize(("name", "phase"), [("cache", Phase.SERVING), ("cache-closed", Phase.HOLDING)])
def test_limit_of_the_gate_decides(name: str, phase: Phase) -> None:
    world = make_world(name)
    world.see(Role.BACKUP)
    world.run_dry()
    world.see(Role.PRIMARY)
    world.plan.clear()
    world.tick(10.0)
    world.usable = True
    world.handle(ActionFailed(world.now, CommitStates(10.0), "no answer", retryable=True))
    world.work()
    assert world.state.phase is phase
    assert any("within 10 s" in change.text for change in world.changes)


def test_what_can_still_be_had_is_committed_before_any_cache_is_emptied() -> None:
    """conntrackd hangs at the takeover, the gate opens by its limit, conntrackd continues much later."""
    world = make_world("cache")
    world.see(Role.BACKUP)
    world.run_dry()
    world.broken, world.answer = frozenset({"CommitStates", "FlushCaches"}), QueryResult.NONE
    world.see(Role.PRIMARY)
    world.work()
    for _ in range(3):  # settled, settled again, rules repaired: it still hangs
        happen(world, "settle")
        world.work()
        happen(world, "drift")
        world.work()
    assert world.state.phase is Phase.SERVING
    assert "FlushCaches" not in world.log, "it would wait in conntrackd's socket"
    assert Condition.STATES in world.state.problems
    assert world.marked
    assert world.log.count("MarkOwed") == 1
    world.broken = frozenset()
    world.log.clear()
    happen(world, "conntrackd-answers")
    world.work()
    done = ["SetReadiness", "CommitStates", "MarkOwed", "FlushCaches", "ResyncKernel", "SendBulk"]
    assert world.log == done
    assert not world.marked
    assert not world.state.problems
    happen(world, "conntrackd-answers")
    assert not world.plan, "nothing is owed any more"


def test_a_late_commit_that_is_skipped_empties_nothing() -> None:
    world = make_world("cache")
    world.broken, world.answer = frozenset({"CommitStates"}), QueryResult.NONE
    world.see(Role.PRIMARY)
    world.work()
    world.broken, world.skipped = frozenset(), True
    world.log.clear()
    happen(world, "conntrackd-answers")
    world.work()
    assert world.log == ["SetReadiness", "CommitStates"]


def test_a_late_commit_that_takes_long_is_not_restarted() -> None:
    """conntrackd answers other questions between the steps of a commit."""
    world = make_world("cache")
    world.broken, world.answer = frozenset({"CommitStates"}), QueryResult.NONE
    world.see(Role.PRIMARY)
    world.work()
    world.broken = frozenset()
    happen(world, "conntrackd-answers")
    assert world.work(1) == 1
    left = [type(action).__name__ for action in world.plan]
    assert left[0] == "CommitStates"
    happen(world, "conntrackd-answers")
    assert [type(action).__name__ for action in world.plan] == left
    world.work()
    assert not world.state.owed
    assert not world.state.committing


def test_a_role_that_is_lost_owes_no_commit() -> None:
    world = make_world("cache")
    world.broken, world.answer = frozenset({"CommitStates"}), QueryResult.NONE
    world.see(Role.PRIMARY)
    world.work()
    assert world.marked
    world.see(Role.BACKUP)
    world.work()
    assert not world.marked


def test_a_mark_that_cannot_be_made_holds_nothing_up_and_is_tried_again() -> None:
    world = make_world("cache")
    world.broken, world.answer = frozenset({"CommitStates", "MarkOwed"}), QueryResult.NONE
    world.see(Role.PRIMARY)
    world.work()
    assert world.state.phase is Phase.SERVING
    assert not world.state.marked
    world.broken = frozenset({"CommitStates"})
    happen(world, "drift")
    world.work()
    assert world.marked
    assert world.state.marked


@pytest.mark.parametrize("owed", [True, False])
def test_an_agent_that_comes_back_knows_whether_a_commit_is_owed(owed: bool) -> None:
    world = World(CACHE, loaded=RuleSet.PRIMARY)
    world.usable, world.marked = True, owed
    world.handle(Started(world.tick(), RuleSet.PRIMARY, owed))
    world.see(Role.PRIMARY)
    world.run_dry()
    assert not world.marked
    assert ("CommitStates" in world.log) is owed
    assert "FlushCaches" in world.log


def test_the_alarm_of_the_limit_is_said_once() -> None:
    world = make_world("cache-closed")
    world.broken, world.answer = frozenset({"CommitStates"}), QueryResult.NONE
    world.see(Role.PRIMARY)
    for _ in range(5):
        world.work()
        happen(world, "retry")
    assert world.state.phase is Phase.PREPARING
    assert [one.condition for one in world.changes].count(Condition.STATES) == 1


def test_dead_conntrackd_does_not_delay_a_takeover() -> None:
    world = make_world("cache")
    world.see(Role.BACKUP)
    world.run_dry()
    world.broken = frozenset({"CommitStates", "FlushCaches", "ResyncKernel", "SendBulk"})
    world.see(Role.PRIMARY)
    world.work()
    assert world.state.phase is Phase.SERVING
    assert {change.condition for change in world.changes} == {Condition.CONNTRACKD, Condition.STATES}
    assert "states are not replicated" in world.state.problems[Condition.CONNTRACKD]


def test_same_role_again_changes_nothing() -> None:
    world = make_world("direct")
    world.see(Role.PRIMARY)
    world.run_dry()
    before, log = world.state, len(world.log)
    world.see(Role.PRIMARY)
    assert (world.state, len(world.log), list(world.plan)) == (before, log, [])


def test_condition_is_said_once_and_once_again_when_it_is_well() -> None:
    state = State()
    said = []
    for ok in (True, False, False, True, True):
        taken = step(DIRECT, state, ConditionSeen(0, Condition.BUS, ok, "words"))
        state = taken.state
        said += [change.ok for change in taken.changes]
    assert said == [False, True]


def test_backup_is_ready_only_when_its_states_are_in() -> None:
    world = make_world("direct")
    assert world.work()
    assert world.ready is False
    world.broken = frozenset({"RequestResync"})
    world.see(Role.BACKUP)
    world.work()
    happen(world, "settle")
    world.work()
    assert world.ready is False
    world.broken = frozenset()
    world.run_dry()
    assert world.ready is True


class Table(dict[tuple[Phase, EventKind], tuple[Phase, Make]]):
    """The table, with a note of every line that was taken."""

    def __init__(self) -> None:
        super().__init__(TRANSITIONS)
        self.taken: set[tuple[Phase, EventKind]] = set()

    def get(self, line: tuple[Phase, EventKind], default: object = None) -> tuple[Phase, Make] | None:  # type: ignore[override]  # one signature of the overloads is used
        self.taken.add(line)
        return super().get(line)


def test_no_line_of_the_table_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    monkeypatch.setattr(machine, "TRANSITIONS", table)
    for name, loaded, role in itertools.product(ALL, (None, RuleSet.PRIMARY), (Role.BACKUP, Role.PRIMARY)):
        for broken, early, event in itertools.product((None, *ACTIONS), (False, True), EVENTS):
            world = make_world(name, loaded)
            world.short = broken is None
            world.broken = frozenset({broken if early else "CommitStates"} if broken else ())
            happen(world, event)
            world.work(1)
            world.see(role)
            world.work(20)
            world.broken = frozenset({broken} if broken else ())
            happen(world, event)
            world.work(20)
            world.see(Role.FAULT if role is Role.PRIMARY else Role.PRIMARY)
            happen(world, event)
            world.work(20)
    world = make_world("direct")
    world.see(Role.PRIMARY)
    world.run_dry()
    happen(world, "states-lost")
    happen(world, "states-lost")
    happen(world, "split-ended")
    world = make_world("direct")
    world.see(Role.BACKUP)
    world.run_dry()
    happen(world, "compare")
    world.work()
    world.handle(ConditionSeen(world.now, Condition.REPLICATION, False, "6 messages were lost"))
    happen(world, "split-ended")
    world.compared = WHOLE
    world.run_dry()
    for event in (
        "fault",
        "primary",
        "drift",
        "conntrackd-lost",
        "conntrackd-started",
        "split-ended",
        "ended",
    ):
        world = expecting()
        happen(world, event)
    happen(expecting(work=False), "conntrackd-lost")
    expecting().handle(ConditionSeen(0, Condition.REPLICATION, False, "6 messages were lost"))
    world = expecting(work=False)
    world.broken = frozenset({"SwitchRules"})
    world.work()
    for events in ("ended",), ("drift",), ("fault", "ended"), ("fault", "primary"):
        world = handing()
        for event in events:
            happen(world, event)
    assert set(TRANSITIONS) - table.taken == set()


def test_promotion_clock_starts_at_the_promotion() -> None:
    state = State(phase=Phase.FOLLOWING, role=Role.BACKUP, loaded=RuleSet.BACKUP, whole=True)
    taken = step(CACHE, state, RoleSeen(5 * SECOND, Role.PRIMARY, "netlink", 5 * SECOND))
    assert taken.plan is not None
    assert taken.plan[0] == CommitStates(10.0)


def test_what_was_seen_before_the_rules_came_back_is_over() -> None:
    """One flush is seen by its notice and by a look; the second is handled when the first has been cured."""
    world = make_world("direct")
    world.see(Role.PRIMARY)
    world.run_dry()
    seen = world.tick()
    world.handle(RulesChanged(seen, "gone"))
    world.work()
    assert not world.state.problems
    before = world.state, list(world.plan), len(world.changes)
    world.handle(RulesChanged(seen, "table inet hafw is gone"))
    assert (world.state, list(world.plan), len(world.changes)) == before
    world.handle(RulesChanged(world.tick(), "gone again"))
    assert world.state.problems
