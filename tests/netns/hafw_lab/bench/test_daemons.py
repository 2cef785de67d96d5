# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench daemons` strikes what it says, sees the pair whole again, and sees one that is not."""

import signal

import pytest

from hafw_lab.bench.daemons import start_pair
from hafw_lab.client.lab import Lab
from hafw_lab.measure.blows import CONNECTIONS, Blow, Daemon, Place, find_processes, require_calm, strike
from hafw_lab.measure.result import Setup

pytestmark = pytest.mark.netns
SETUP = Setup(advert_interval_ms=300)
LIMIT_S = 60
SHORT_S = 5


def silent(_: str) -> None:
    """Nobody watches."""


def test_a_pair_that_is_whole_again() -> None:
    """Of a keepalived whose parent was killed the VRRP process lived on beside the next one, and took its
    name on the bus and its pid file away for good: seen when the node was primary after the second blow."""
    with start_pair(SETUP, LIMIT_S, silent) as lab:
        primary = lab.wait_settled(30)
        for daemon, place in ((Daemon.PARENT, Place.BACKUP), (Daemon.BOTH, Place.PRIMARY)):
            before = {name: find_processes(lab.node(name), Daemon.BOTH) for name in lab.firewalls}
            run = strike(lab, Blow(daemon, place, signal.SIGKILL, 1), 0, LIMIT_S)
            assert run.calm_s is not None, run.unrest
            assert (run.opened, run.survived) == (CONNECTIONS, CONNECTIONS)
            assert (run.node == primary) is (place is Place.PRIMARY)
            after = {name: find_processes(lab.node(name), Daemon.BOTH) for name in lab.firewalls}
            assert [name for name in lab.firewalls if before[name] != after[name]] == [run.node]
            assert set(before[run.node]).isdisjoint(after[run.node])
        assert "transition" in run.own
        assert "transition" in run.peer
        stop_the_agent(lab)


def stop_the_agent(lab: Lab) -> None:
    run = strike(lab, Blow(Daemon.AGENT, Place.BACKUP, signal.SIGSTOP, 1), SHORT_S, LIMIT_S)
    assert run.calm_s is not None, run.unrest
    assert "agent silent" in run.own
    assert "peer" in run.peer
    assert run.survived == CONNECTIONS


def test_a_pair_that_is_not_whole_is_seen() -> None:
    with Lab.start(SETUP.options()) as lab:  # nobody starts what has died
        require_calm(lab, LIMIT_S, 1)
        run = strike(lab, Blow(Daemon.CONNTRACKD, Place.BACKUP, signal.SIGKILL, 1), 0, SHORT_S)
        assert run.calm_s is None
        assert f"{run.node} does not run conntrackd" in run.unrest
