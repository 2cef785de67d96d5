# SPDX-License-Identifier: GPL-2.0-or-later
"""Which node's dynamic sets are right, and how often they are sent."""

from dataclasses import replace

import pytest

from agent.core.peer import NodeStatus
from agent.core.roles import Role
from agent.core.sets import LONG_PAUSE, PAUSE_S, PERIOD_S, Sending, about, is_sender

PRIMARY = NodeStatus(Role.PRIMARY, 10.0, True, 1000.0, rules="b")
BACKUP = replace(PRIMARY, role=Role.BACKUP, gate_open=False)
NOW = about(PRIMARY, BACKUP)


def senders(one: NodeStatus, other: NodeStatus) -> list[NodeStatus]:
    return [own for own, peer in ((one, other), (other, one)) if is_sender(own, peer)]


@pytest.mark.parametrize("role", [Role.BACKUP, Role.FAULT, Role.STOPPED])
def test_what_the_primary_has_is_right(role: Role) -> None:
    assert senders(PRIMARY, replace(BACKUP, role=role)) == [PRIMARY]


@pytest.mark.parametrize(("primary", "backup"), [(True, False), (False, True), (True, True)])
def test_what_was_lost_is_not_right(primary: bool, backup: bool) -> None:
    one, other = replace(PRIMARY, sets_lost=primary), replace(BACKUP, sets_lost=backup)
    assert senders(one, other) == ([other] if primary and not backup else [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PRIMARY, PRIMARY),
        (BACKUP, BACKUP),
        (PRIMARY, replace(BACKUP, role=Role.UNKNOWN)),
        (PRIMARY, replace(BACKUP, rules="")),
        (replace(PRIMARY, rules=""), replace(BACKUP, rules="")),
    ],
)
def test_nobody_sends_where_roles_or_rules_are_in_doubt(one: NodeStatus, other: NodeStatus) -> None:
    assert senders(one, other) == []


def test_a_node_of_another_version_gets_them_too() -> None:
    """Between the upgrades of both: it makes other rules of the same file, and has made its table again."""
    upgraded = replace(BACKUP, rules="c", sets_lost=True)
    assert senders(PRIMARY, upgraded) == [PRIMARY]
    assert senders(replace(PRIMARY, sets_lost=True, rules="c"), BACKUP) == [BACKUP]


def test_a_peer_that_was_not_heard_gets_them_at_once() -> None:
    assert Sending().is_next_due(NOW, 0.0, lost=False)


@pytest.mark.parametrize(
    ("sent", "lost", "pause_s"),
    [
        (Sending(NOW), False, PERIOD_S),
        (Sending(NOW), True, PAUSE_S),
        (Sending(NOW, failed=1), False, PAUSE_S),
        (Sending(NOW, unsure=True), False, PAUSE_S),
        (Sending(None), False, PAUSE_S),
        (Sending(about(BACKUP, PRIMARY)), False, PAUSE_S),
        (Sending(about(replace(PRIMARY, rules="c"), BACKUP)), False, PAUSE_S),
        (Sending(NOW, took_s=7.0), True, LONG_PAUSE * 7.0),
    ],
)
def test_whatever_the_peer_does_there_is_a_pause(sent: Sending, lost: bool, pause_s: float) -> None:
    ended = replace(sent, ended_s=100.0)
    assert not ended.is_next_due(NOW, 100.0 + pause_s - 0.1, lost=lost)
    assert ended.is_next_due(NOW, 100.0 + pause_s, lost=lost)
