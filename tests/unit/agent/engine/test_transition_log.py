# SPDX-License-Identifier: GPL-2.0-or-later
"""What the log of transitions knows of the time in which this node was primary."""

from agent.core.events import RoleSeen
from agent.core.peer import Heard, NodeStatus, judge_split
from agent.core.roles import Role
from agent.engine.transition_log import TransitionLog
from tests.fakes import MemorySink

SECOND = 1_000_000_000


def test_a_node_that_was_halted_was_not_primary_meanwhile() -> None:
    """Its peer takes over: that is a plain failover and no split."""
    log = TransitionLog(MemorySink().write, lambda begin, end: 0)
    start = log.role_since_ns
    log.begin(RoleSeen(start + SECOND, Role.PRIMARY, "test", start + SECOND), Role.BACKUP, {})
    halted, woken = start + 100 * SECOND, start + 160 * SECOND
    log.begin(RoleSeen(woken, Role.BACKUP, "test", halted), Role.PRIMARY, {})
    assert (log.ceased_ns, log.served_ns) == (halted, 99 * SECOND)
    assert log.role_since_ns == woken
    own = NodeStatus(
        Role.BACKUP, 0.0, False, 0.0, ceased_s=(woken - halted) / 1e9, served_s=log.served_ns / 1e9
    )
    peer = NodeStatus(Role.PRIMARY, 59.0, True, 0.0)
    now_s = woken / 1e9
    heard = Heard({"eth2": now_s}, peer, now_s, now_s)
    assert judge_split(own, heard, ("fw-1", "fw-2"), -1e9, now_s) == (-1e9, "")


def test_a_role_that_was_over_before_it_was_seen_was_not_served() -> None:
    log = TransitionLog(MemorySink().write, lambda begin, end: 0)
    start = log.role_since_ns
    log.begin(RoleSeen(start + 9 * SECOND, Role.PRIMARY, "test", start), Role.BACKUP, {})
    log.begin(RoleSeen(start + 9 * SECOND, Role.BACKUP, "test", start), Role.PRIMARY, {})
    assert log.served_ns == 0
