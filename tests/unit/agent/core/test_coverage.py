# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether conntrackd knows what its kernel knows: when it is asked to read everything again, and what is
said."""

from agent.core.actions import RefreshStates, Reread, ResyncKernel, SendBulk, SetTimer, Timer
from agent.core.conditions import Condition
from agent.core.coverage import MARGIN, NEEDLESS_AGAIN_S
from agent.core.events import (
    ActionDone,
    ActionFailed,
    ConntrackdStarted,
    Event,
    RoleSeen,
    RulesChanged,
    StatesCounted,
    TimerFired,
)
from agent.core.machine import step
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.core.state import ConditionChange, Phase, State
from tests.unit.agent.core.world import SECOND


class Primary:
    """A serving primary; five seconds pass before every event."""

    def __init__(self) -> None:
        self.state = State(phase=Phase.SERVING, role=Role.PRIMARY, loaded=RuleSet.PRIMARY, whole=True)
        self.now = SECOND
        self.changes: list[ConditionChange] = []

    def handle(self, event: Event) -> tuple[object, ...]:
        taken = step(Settings(), self.state, event)
        self.state = taken.state
        self.changes += taken.changes
        return taken.plan or ()

    def count(self, kernel: int, cached: int) -> tuple[object, ...]:
        self.now += 5 * SECOND
        return self.handle(StatesCounted(self.now, kernel, cached))

    def reread(self, before: int, after: int, kernel: int) -> None:
        self.now += SECOND
        self.handle(ActionDone(self.now, ResyncKernel(), Reread(before, after, kernel)))

    @property
    def said(self) -> list[bool]:
        return [one.ok for one in self.changes if one.condition is Condition.LOST_EVENTS]


ORDERED = (ResyncKernel(), SendBulk(), SetTimer(Timer.REFRESH, 5.0))


def test_a_loss_is_seen_twice_repaired_and_reported_once() -> None:
    primary = Primary()
    primary.reread(0, 1000, 1020)
    assert primary.count(40_020, 37_337) == ()
    assert primary.count(40_020, 37_337) == ORDERED
    assert primary.said == []
    primary.reread(37_337, 40_000, 40_020)
    assert primary.said == [False]
    assert "2663 of this kernel's 40020 states" in primary.changes[-1].text
    for _ in range(3):
        assert primary.count(40_020, 40_000) == ()
    assert primary.said == [False, True]
    assert not primary.state.problems


def test_a_burst_that_is_still_being_read_is_no_loss() -> None:
    primary = Primary()
    primary.reread(0, 0, 0)
    for _ in range(3):
        assert primary.count(60_000, 20_000) == ()
        assert primary.count(60_000, 60_000) == ()
    assert primary.said == []


def test_what_ends_on_the_firewall_itself_is_not_missing() -> None:
    """5,000 states of a proxy are there from the beginning, go, and come again."""
    primary = Primary()
    primary.reread(0, 1000, 6000)
    for kernel in (6000, 6000 + MARGIN, 6000, 1000, 1000):
        assert primary.count(kernel, 1000) == ()
    assert primary.count(6000, 1000) == ()
    assert primary.count(6000, 1000) == ORDERED
    primary.reread(1000, 1000, 6000)
    assert primary.said == [], "nothing was lost"
    assert [primary.count(6000, 1000) for _ in range(3)] == [(), (), ()]


def test_reading_for_nothing_is_not_repeated_soon_but_in_time() -> None:
    primary = Primary()
    primary.reread(0, 0, 0)
    orders = []
    for number in range(int(2.5 * NEEDLESS_AGAIN_S / 5)):
        kernel = 500 * (number // 4 % 2)  # they come and go
        if primary.count(kernel, 0):
            orders.append(number)
            primary.reread(0, 0, kernel)
    assert len(orders) == 3
    assert primary.said == []


def test_nothing_is_judged_before_the_cache_was_exact_or_by_an_old_count() -> None:
    primary = Primary()
    assert [primary.count(60_000, 0) for _ in range(3)] == [(), (), ()]
    asked = primary.now
    primary.reread(0, 60_000, 60_000)
    for _ in range(3):
        assert primary.handle(StatesCounted(asked, 60_000, 0)) == ()
    primary.handle(ConntrackdStarted(primary.now))
    assert [primary.count(60_000, 0) for _ in range(3)] == [(), (), ()]


def test_a_failed_order_is_given_again() -> None:
    primary = Primary()
    primary.reread(0, 0, 0)
    primary.count(1000, 0)
    assert primary.count(1000, 0) == ORDERED
    primary.handle(ActionFailed(primary.now, ResyncKernel(), "no answer", retryable=True))
    primary.count(1000, 0)
    assert primary.count(1000, 0) == ORDERED


def test_a_backup_has_states_that_its_conntrackd_does_not_know() -> None:
    primary = Primary()
    primary.reread(0, 0, 0)
    primary.count(1000, 0)
    primary.count(1000, 0)
    primary.reread(0, 1000, 1000)
    primary.handle(RoleSeen(primary.now, Role.BACKUP, "test", primary.now))
    assert primary.said == [False, True]
    assert [primary.count(60_000, 0) for _ in range(3)] == [(), (), ()]


def test_a_refresh_that_falls_due_does_not_cut_off_the_reading() -> None:
    """All is sent just after, and the loss would never be reported: the next count finds nothing missing."""
    primary = Primary()
    primary.reread(0, 0, 0)
    primary.count(1000, 0)
    assert primary.count(1000, 0) == ORDERED
    due = TimerFired(primary.now, Timer.REFRESH)
    assert step(Settings(), primary.state, due).plan is None
    primary.reread(0, 1000, 1000)
    assert primary.said == [False]
    assert step(Settings(), primary.state, due).plan == (RefreshStates(), SetTimer(Timer.REFRESH, 5.0))


def test_a_reading_that_failed_holds_up_no_refresh() -> None:
    primary = Primary()
    primary.handle(TimerFired(primary.now, Timer.SETTLE))
    due = TimerFired(primary.now, Timer.REFRESH)
    assert step(Settings(), primary.state, due).plan is None
    primary.handle(ActionFailed(primary.now, ResyncKernel(), "no answer", retryable=True))
    assert step(Settings(), primary.state, due).plan is not None


def test_a_newer_plan_ends_the_reading() -> None:
    primary = Primary()
    primary.handle(TimerFired(primary.now, Timer.SETTLE))
    assert primary.state.reading
    primary.handle(RulesChanged(primary.now, "flushed"))
    assert not primary.state.reading
