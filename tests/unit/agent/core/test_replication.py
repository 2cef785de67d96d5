# SPDX-License-Identifier: GPL-2.0-or-later
"""What lost messages and refused states mean, and what is said of them."""

import pytest

from agent.core.actions import (
    AwaitStates,
    Compared,
    CompareStates,
    RequestResync,
    SetTimer,
    StatesIn,
    Timer,
)
from agent.core.conditions import Condition, doubt
from agent.core.events import ActionDone, ActionFailed, ConditionSeen, SplitEnded, StatesCounted, TimerFired
from agent.core.plan import COMPARE_SOON_S, Settings, catch_up_after_s
from agent.core.replication import Losses, judge_losses, losses_text
from agent.core.roles import Role
from agent.model.pair import SyncMode
from tests.unit.agent.core.world import LACKING, NOBODY_ASKED, WHOLE, World

SIX = Losses(lost=6)


@pytest.mark.parametrize(
    ("losses", "said", "unsaid"),
    [
        (SIX, ["6 of the peer's messages were lost"], ["kernel", "version", " 0 "]),
        (Losses(refused=3), ["refused 3 of the peer's states", "room"], ["lost", "version", " 0 "]),
        (
            Losses(unread=2),
            ["2 of the peer's messages could not be read", "version"],
            ["lost", "room", " 0 "],
        ),
        (Losses(1, 2, 3), ["refused 1", "2 of the peer's messages were lost", "3 of the"], [" 0 "]),
    ],
)
def test_only_what_happened_and_its_cause_is_said(
    losses: Losses, said: list[str], unsaid: list[str]
) -> None:
    text = losses_text(losses)
    assert all(words in text for words in said), text
    assert not any(words in text for words in unsaid), text


def test_a_growth_is_a_loss_and_a_standstill_says_nothing() -> None:
    assert judge_losses(Role.BACKUP, SIX.since(SIX)) is None
    found = judge_losses(Role.BACKUP, SIX.since(Losses()))
    assert found is not None
    assert found[:2] == (Condition.REPLICATION, False)


def test_another_conntrackd_counts_from_nothing() -> None:
    assert not Losses().since(SIX)
    assert Losses(lost=2).since(SIX) == Losses(lost=2)


def test_a_primary_misses_nothing_of_its_peers() -> None:
    assert judge_losses(Role.PRIMARY, SIX) is None


def settled_backup(mode: SyncMode = SyncMode.DIRECT) -> World:
    world = World(Settings(mode=mode))
    world.start()
    world.see(Role.BACKUP)
    world.run_dry()
    assert world.ready is True
    return world


def lose(world: World) -> None:
    finding = judge_losses(Role.BACKUP, SIX)
    assert finding is not None
    world.handle(ConditionSeen(world.tick(60), *finding))
    world.work()


@pytest.mark.parametrize("mode", SyncMode)
def test_what_was_lost_is_asked_for_and_until_then_the_states_are_not_in(mode: SyncMode) -> None:
    world = settled_backup(mode)
    lose(world)
    assert world.ready is False
    world.log.clear()
    world.run_dry()
    assert "RequestResync" in world.log
    assert world.ready is True
    assert [change.ok for change in world.changes if change.condition is Condition.REPLICATION] == [
        False,
        True,
    ]


@pytest.mark.parametrize("trouble", ["losses", "silent"])
def test_a_catch_up_that_was_not_whole_is_none(trouble: str) -> None:
    world = settled_backup()
    lose(world)
    setattr(world, trouble, "6 messages were lost" if trouble == "losses" else True)
    for timer in (Timer.RETRY, Timer.SETTLE):
        world.timers.discard(timer)
        world.handle(TimerFired(world.tick(1), timer))
        world.work()
    assert world.log[-5:] == ["CompareStates", "RequestResync", "AwaitStates", "SetReadiness", "SetTimer"]
    assert world.ready is False
    assert Condition.REPLICATION in world.state.problems
    setattr(world, trouble, "" if trouble == "losses" else False)
    world.run_dry()
    assert world.ready is True
    assert Condition.REPLICATION not in world.state.problems


def test_a_backup_that_was_compared_needs_no_stream_and_waits_for_none() -> None:
    world = World(Settings(), compared=WHOLE)
    world.start()
    world.see(Role.BACKUP)
    world.run_dry()
    assert world.log[-3:] == ["CompareStates", "SetReadiness", "SetTimer"]
    assert world.ready is True
    assert Timer.COMPARE in world.timers


def test_a_backup_that_lacks_states_is_not_ready_and_tries_again() -> None:
    world = settled_backup()
    world.compared = LACKING
    lose(world)
    for timer in (Timer.RETRY, Timer.SETTLE):
        world.handle(TimerFired(world.tick(1), timer))
        world.work()
    assert world.log[-3:] == ["CompareStates", "SetReadiness", "SetTimer"]
    assert world.ready is False
    assert world.state.problems[Condition.REPLICATION] == (
        "6 of the primary's 10 states are missing (compared in 5 rounds, 6 were sent again)"
    )
    world.compared = WHOLE
    world.run_dry()
    assert world.ready is True
    text = "all 10 states of the primary are here (compared in 1 round, 0 were sent again)"
    assert world.changes[-1].text == text


@pytest.mark.parametrize("compared", [WHOLE, LACKING, NOBODY_ASKED])
def test_a_ready_backup_is_compared_from_time_to_time(compared: Compared) -> None:
    world = settled_backup()
    world.log.clear()
    world.compared = compared
    world.timers.discard(Timer.COMPARE)
    world.handle(TimerFired(world.tick(60), Timer.COMPARE))
    world.work()
    assert world.log[:2] == ["SetTimer", "CompareStates"]
    assert world.ready is (compared is not LACKING)
    then = {WHOLE: [], NOBODY_ASKED: ["SetTimer"]}
    assert world.log[2:] == then.get(compared, ["SetReadiness", "SetTimer"])
    assert Timer.COMPARE in world.timers


def test_a_node_that_is_not_ready_or_not_backup_is_not_compared_by_the_clock() -> None:
    world = World(Settings())
    world.start()
    for role, ready in ((Role.BACKUP, None), (Role.PRIMARY, True)):
        world.see(role)
        if ready:
            world.run_dry()
        world.work()
        world.log.clear()
        world.handle(TimerFired(world.tick(60), Timer.COMPARE))
        world.work()
        assert world.log == []


@pytest.mark.parametrize("routine", [False, True])
def test_a_comparison_that_fails_is_never_made_good_by_a_stream(routine: bool) -> None:
    """The primary could be asked: what it did not answer nobody knows. A backup that was compared before has
    lost nothing by it."""
    world = settled_backup()
    world.log.clear()
    world.broken = frozenset({"CompareStates"})
    timer = Timer.COMPARE if routine else Timer.SETTLE
    world.handle(TimerFired(world.tick(60), timer))
    world.work()
    if routine:
        assert world.log == ["SetTimer", "CompareStates"]
        assert world.ready is True
        return
    assert world.log == ["FlushCaches", "CompareStates", "SetReadiness", "SetTimer"]
    assert world.ready is False
    world.broken, world.compared = frozenset(), WHOLE
    world.run_dry()
    assert world.ready is True
    assert "RequestResync" not in world.log


def test_a_comparison_with_losses_is_not_whole() -> None:
    lossy = Compared(10, rounds=1, losses="6 of the peer's messages were lost on the way")
    world = World(Settings(), compared=lossy)
    world.start()
    world.see(Role.BACKUP)
    for timer in (Timer.SETTLE, Timer.RETRY, Timer.SETTLE):
        world.work()
        world.handle(TimerFired(world.tick(2), timer))
    world.work()
    assert world.ready is False
    assert "lost on the way while the states were compared" in world.state.problems[Condition.REPLICATION]
    world.compared = WHOLE
    world.run_dry()
    assert world.ready is True


@pytest.mark.parametrize("comes", ["nothing", "a stream", "a lossy stream", "a whole list", "a short list"])
def test_a_backup_that_has_emptied_itself_needs_the_primarys_states(comes: str) -> None:
    """A silent peer is no reason to call nothing all of its states."""
    world = settled_backup()
    world.silent = comes == "nothing"
    world.losses = "6 messages were lost" if comes == "a lossy stream" else ""
    world.compared = {"a whole list": WHOLE, "a short list": LACKING}.get(comes, NOBODY_ASKED)
    world.handle(SplitEnded(world.tick(1), "both nodes were primary"))
    for _ in range(3):
        world.work()
        assert world.state.emptied is (comes not in ("a stream", "a whole list"))
        assert world.ready is not world.state.emptied
        for timer in (Timer.RETRY, Timer.SETTLE):
            world.handle(TimerFired(world.tick(60), timer))
            world.work()
    assert world.log.count("StartClean") == 1
    world.silent, world.losses, world.compared = False, "", NOBODY_ASKED
    world.run_dry()
    assert world.ready is True


def test_nobody_has_nothing_of_a_role_that_is_over() -> None:
    world = settled_backup()
    world.silent = True
    world.handle(SplitEnded(world.tick(1), "both nodes were primary"))
    world.work()
    assert world.state.emptied
    world.see(Role.PRIMARY)
    assert not world.state.emptied


def test_only_a_question_for_all_states_is_not_asked_again_soon() -> None:
    """A comparison costs the primary little: one that failed is made again at once."""
    world = settled_backup()
    asked_ns = world.state.asked_ns
    assert asked_ns
    for action, outcome in (CompareStates(), WHOLE), (AwaitStates(30.0), StatesIn(10, peer_heard=True)):
        world.handle(ActionDone(world.tick(60), action, outcome))
        world.handle(ActionFailed(world.tick(60), action, "a reason", False))
    assert world.state.asked_ns == asked_ns
    world.handle(ActionDone(world.tick(60), RequestResync()))
    assert world.state.asked_ns == world.now


def test_where_nobody_could_be_asked_it_is_compared_again_soon() -> None:
    world = World(Settings())
    world.start()
    world.see(Role.BACKUP)
    world.work()
    world.handle(TimerFired(world.tick(1), Timer.SETTLE))
    assert world.plan[-1] == SetTimer(Timer.COMPARE, COMPARE_SOON_S)
    world.work()
    world.handle(TimerFired(world.tick(5), Timer.COMPARE))
    world.work(2)
    assert list(world.plan) == [SetTimer(Timer.COMPARE, COMPARE_SOON_S)]
    world.work()
    world.compared = WHOLE
    world.handle(TimerFired(world.tick(5), Timer.COMPARE))
    world.work()
    assert not world.plan
    assert world.ready is True


def test_losses_while_it_catches_up_do_not_break_that_off() -> None:
    world = settled_backup()
    lose(world)
    plan = tuple(world.plan)
    lose(world)
    assert tuple(world.plan) == plan


@pytest.mark.parametrize(
    ("mode", "states", "asked_s", "after_s"),
    [
        (SyncMode.DIRECT, 100, 3600.0, 2.0),
        (SyncMode.DIRECT, 100, 1.0, 29.0),
        (SyncMode.DIRECT, 1_000_000, 1.0, 599.0),
        (SyncMode.DIRECT, 1_000_000, 3600.0, 2.0),
        (SyncMode.CACHE, 1_000_000, 1.0, 29.0),
    ],
)
def test_what_is_lost_again_is_asked_for_at_a_slower_pace(
    mode: SyncMode, states: int, asked_s: float, after_s: float
) -> None:
    assert catch_up_after_s(Settings(mode=mode), states, asked_s) == pytest.approx(after_s)


def test_the_pace_is_that_of_the_kernels_states() -> None:
    world = settled_backup()
    world.handle(counted(world, 1_000_000))
    world.losses = "6 messages were lost"
    lose(world)
    waits: list[float] = []
    for timer in (Timer.RETRY, Timer.SETTLE):
        world.handle(TimerFired(world.tick(1), timer))
        waits = [action.after_s for action in world.plan if isinstance(action, SetTimer)] or waits
        while world.plan:
            world.work(1)
            waits = [action.after_s for action in world.plan if isinstance(action, SetTimer)] or waits
    assert waits[-1] > 500


def counted(world: World, kernel: int) -> StatesCounted:
    return StatesCounted(world.tick(), kernel, 0)


def test_what_makes_states_doubtful() -> None:
    assert doubt({}) is None
    assert doubt({Condition.BUS: "no bus"}) is None
    words = doubt(
        {Condition.BUS: "no bus", Condition.PEER_SILENT: "silence", Condition.SYNC_LINK: "no carrier"}
    )
    assert words == "no carrier; silence"
