# SPDX-License-Identifier: GPL-2.0-or-later
"""What an answer for a virtual address means, and what none means."""

from ipaddress import ip_address

import pytest

from agent.core.answers import (
    ROUND_S,
    Advertised,
    Holder,
    judge_no_primary,
    judge_primaries,
    rounds_without_primary,
)
from agent.core.conditions import Condition
from agent.core.roles import Role

VIP, OTHER = ip_address("192.168.0.100"), ip_address("192.168.2.100")
PEER, STRANGER = "52:54:00:00:00:02", "52:54:00:00:00:99"
SILENT = (Holder("eth0", VIP, None), Holder("eth1", OTHER, None))
BY_PEER = (Holder("eth0", VIP, PEER, PEER), Holder("eth1", OTHER, None))
BY_STRANGER = (Holder("eth0", VIP, STRANGER, PEER), Holder("eth1", OTHER, None))


@pytest.mark.parametrize(
    ("role", "role_s", "holders", "ok", "words"),
    [
        (Role.PRIMARY, 60.0, SILENT, True, "no other host"),
        (Role.PRIMARY, 60.0, (), True, "no other host"),
        (Role.PRIMARY, 60.0, BY_PEER, False, f"fw-2 ({PEER}) answers for 192.168.0.100 on eth0"),
        (
            Role.PRIMARY,
            60.0,
            BY_STRANGER,
            False,
            f"another host ({STRANGER}) answers for 192.168.0.100 on eth0",
        ),
        (Role.BACKUP, 60.0, BY_PEER, True, "not primary"),
        (Role.FAULT, 60.0, BY_PEER, True, "not primary"),
        (Role.STOPPED, 60.0, BY_PEER, True, "not primary"),
    ],
)
def test_two_primaries(role: Role, role_s: float, holders: tuple[Holder, ...], ok: bool, words: str) -> None:
    found = judge_primaries(role, role_s, holders, "fw-2")
    assert found is not None
    assert found[:2] == (Condition.TWO_PRIMARIES, ok)
    assert words in found[2]


def test_a_peer_that_advertises_itself_is_a_second_primary() -> None:
    found = judge_primaries(Role.PRIMARY, 60.0, (), "fw-2", ("eth0", "eth1"))
    assert found is not None
    assert not found[1]
    assert "fw-2 advertises itself on eth0, eth1" in found[2]


@pytest.mark.parametrize("remembered_s", [1, 3, 21])
def test_one_advertisement_is_no_second_primary(remembered_s: int) -> None:
    """It is remembered, and so seen in some rounds, whenever it came."""
    seen = Advertised()
    for _ in range(1 + int(remembered_s // ROUND_S)):
        seen = seen.and_then({"eth1"})
        assert not seen.beside(60.0, remembered_s)
    seen = seen.and_then({"eth1"})
    seen = seen.and_then({"eth1"})
    assert seen.beside(60.0, remembered_s) == ("eth1",)
    assert not seen.beside(remembered_s, remembered_s), "the last ones before this node took over"
    assert not seen.and_then(()).beside(60.0, remembered_s)


def test_a_node_that_hands_over_answered_a_moment_ago() -> None:
    assert judge_primaries(Role.PRIMARY, 0.5, BY_PEER, "fw-2") is None


@pytest.mark.parametrize("role", list(Role))
def test_rounds_without_an_answer(role: Role) -> None:
    unanswered = 0 if role is Role.PRIMARY else 4
    assert rounds_without_primary(role, SILENT, 3) == unanswered
    assert rounds_without_primary(role, BY_PEER, 3) == 0
    if role is not Role.PRIMARY:
        assert rounds_without_primary(role, (), 3) is None, "no link to ask on: nothing is known"


@pytest.mark.parametrize(("advert_interval_ms", "rounds"), [(10, 3), (300, 3), (1000, 4), (10_000, 22)])
def test_no_node_is_primary_for_longer_than_a_takeover_takes(advert_interval_ms: int, rounds: int) -> None:
    assert judge_no_primary(rounds - 1, advert_interval_ms, SILENT) is None
    found = judge_no_primary(rounds, advert_interval_ms, SILENT)
    assert found is not None
    assert found[:2] == (Condition.NO_PRIMARY, False)
    assert "no host answers for 192.168.0.100 (eth0), 192.168.2.100 (eth1)" in found[2]


def test_one_answer_ends_it() -> None:
    found = judge_no_primary(0, 300, BY_PEER)
    assert found is not None
    assert found[:2] == (Condition.NO_PRIMARY, True)
