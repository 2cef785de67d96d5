# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine in a handover: when the gates open and close, and what keepalived is made to do."""

import pytest

from agent.core.actions import SetTimer, Timer
from agent.core.events import HandoverAnnounced, Started
from agent.core.machine import step
from agent.core.plan import HANDOVER_MARGIN_S, Settings
from agent.core.roles import Role, RuleSet, Standing
from agent.core.state import Phase, State
from tests.unit.agent.core.stories import PREEMPT, expecting, handing, happen, make_world
from tests.unit.agent.core.world import CACHE, DIRECT, World


def phase_of(world: World) -> Phase:
    """mypy takes it that a phase which was asserted lasts."""
    return world.state.phase


def standing_of(world: World) -> Standing:
    return world.state.standing


def test_a_backup_opens_its_gate_for_a_handover_and_is_primary_without_closing_it() -> None:
    world = expecting()
    assert world.log == ["SetTimer", "SwitchRules primary"]
    assert phase_of(world) is Phase.EXPECTING
    world.see(Role.PRIMARY)
    world.work()
    assert "SwitchRules backup" not in world.log
    assert world.state.phase is Phase.SERVING


@pytest.mark.parametrize("ends", ["handover", "ended", "drift", "conntrackd-lost", "split-ended", "fault"])
def test_a_gate_that_was_opened_early_closes_again(ends: str) -> None:
    world = expecting()
    happen(world, ends)
    world.work()
    assert world.loaded is RuleSet.BACKUP
    assert world.state.phase is Phase.FOLLOWING


def test_a_gate_that_is_not_open_yet_stays_closed_when_states_are_missed() -> None:
    world = expecting(work=False)
    happen(world, "conntrackd-lost")
    world.work()
    assert "SwitchRules primary" not in world.log
    assert world.state.phase is Phase.FOLLOWING


@pytest.mark.parametrize(
    ("settings", "state"),
    [
        (DIRECT, State(Phase.FOLLOWING, Role.BACKUP, RuleSet.BACKUP, whole=True, ready=False)),
        (DIRECT, State(Phase.FOLLOWING, Role.BACKUP, RuleSet.BACKUP, whole=False, ready=True)),
        (DIRECT, State(Phase.FOLLOWING, Role.FAULT, RuleSet.BACKUP, whole=True, ready=True)),
        (CACHE, State(Phase.FOLLOWING, Role.BACKUP, RuleSet.BACKUP, whole=True, ready=True)),
    ],
)
def test_a_node_that_would_not_serve_as_well_opens_nothing(settings: Settings, state: State) -> None:
    assert step(settings, state, HandoverAnnounced(0)).state == state


def test_the_gate_stays_open_while_the_addresses_are_on_their_way() -> None:
    world = handing()
    assert world.log == ["SetTimer", "SetStanding"]
    assert standing_of(world) is Standing.GIVES_UP
    for role in (Role.FAULT, Role.BACKUP):
        world.see(role)
        world.work()
        assert world.loaded is RuleSet.PRIMARY
        assert world.state.standing is Standing.TAKES_PART, "keepalived alone must get them back"
    happen(world, "ended")
    world.work()
    assert world.loaded is RuleSet.BACKUP
    assert world.state.phase is Phase.FOLLOWING


def test_after_a_handover_a_preferred_node_does_not_take_the_addresses_back() -> None:
    world = handing("preempt")
    world.see(Role.BACKUP)
    world.work()
    assert standing_of(world) is Standing.STANDS_BACK
    happen(world, "ended")
    world.run_dry()
    assert standing_of(world) is Standing.STANDS_BACK
    world.see(Role.PRIMARY)
    world.work()
    assert world.state.standing is Standing.TAKES_PART


def test_a_primary_whose_peer_does_not_take_over_serves_on_without_a_closed_gate() -> None:
    world = handing()
    world.see(Role.BACKUP)
    world.work()
    world.see(Role.PRIMARY)
    world.work()
    assert world.state.phase is Phase.SERVING
    assert "SwitchRules backup" not in world.log


def left_s(world: World) -> float:
    (timer,) = (one for one in world.plan if isinstance(one, SetTimer) and one.timer is Timer.HANDOVER)
    return timer.after_s


@pytest.mark.parametrize("events", [("backup", "fault"), ("reload", "drift")])
def test_no_gate_is_held_open_by_what_happens_again_and_again(events: tuple[str, str]) -> None:
    world = handing()
    begun_ns, limit_s = world.now, world.settings.takeover_s + HANDOVER_MARGIN_S
    for event in events * 5:
        world.tick(limit_s / 8)
        happen(world, event)
        past_s = (world.now - begun_ns) / 1e9
        assert left_s(world) == pytest.approx(max(0.0, limit_s - past_s), abs=0.1)
        world.work()
    happen(world, "reload")
    assert left_s(world) == 0.0
    happen(world, "handover")
    world.tick(100)
    happen(world, "primary")
    world.run_dry()
    happen(world, "begun")
    assert left_s(world) == limit_s


@pytest.mark.parametrize("role", [None, Role.PRIMARY])
def test_no_fault_stays_where_the_rules_cannot_be_put_in_force(role: Role | None) -> None:
    """keepalived would never have the addresses here again."""
    world = handing()
    world.see(Role.BACKUP)  # and the plan for that is cut off
    assert standing_of(world) is Standing.GIVES_UP
    world.broken = frozenset({"SwitchRules", "LoadRules"})
    if role is Role.PRIMARY:
        world.see(role)
    else:
        happen(world, "ended")
    world.work()
    assert standing_of(world) is Standing.TAKES_PART


def test_a_primary_that_keeps_the_addresses_ends_the_fault_first() -> None:
    world = handing()
    world.broken = frozenset({"SwitchRules", "LoadRules"})
    happen(world, "ended")
    world.work()
    assert world.state.phase is Phase.SERVING
    assert standing_of(world) is Standing.TAKES_PART


def test_a_node_that_stands_back_since_before_its_agent_takes_part_once_it_is_primary() -> None:
    world = World(PREEMPT)
    world.handle(Started(world.tick(), RuleSet.BACKUP, standing=Standing.STANDS_BACK))
    world.usable = True
    world.loaded = RuleSet.BACKUP
    world.see(Role.BACKUP)
    world.run_dry()
    assert standing_of(world) is Standing.STANDS_BACK
    world.see(Role.PRIMARY)
    world.work()
    assert standing_of(world) is Standing.TAKES_PART


@pytest.mark.parametrize("ends", ["ended", "handover"])
def test_a_keepalived_that_gives_nothing_up_is_asked_no_longer(ends: str) -> None:
    world = handing()
    happen(world, ends)
    world.work()
    assert world.state.phase is Phase.SERVING
    assert world.state.standing is Standing.TAKES_PART


def test_a_fault_that_cannot_be_written_ends_the_handover_at_once() -> None:
    world = make_world("direct")
    world.see(Role.PRIMARY)
    world.run_dry()
    world.broken = frozenset({"SetStanding"})
    happen(world, "begun")
    world.work()
    assert world.state.phase is Phase.SERVING
    assert world.state.standing is Standing.TAKES_PART
