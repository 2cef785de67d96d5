# SPDX-License-Identifier: GPL-2.0-or-later
"""From facts to a role: the table of the truth."""

import pytest

from agent.core.assess import Facts, VrrpState, assess, contradictions, serves
from agent.core.conditions import Condition
from agent.core.roles import Role

VIP = frozenset({"192.168.0.100%eth0"})
NONE: frozenset[str] = frozenset()
BOTH = VIP | {"172.16.0.1%eth1"}
BACKUP = frozenset({VrrpState.BACKUP})
MASTER = frozenset({VrrpState.MASTER})
S = VrrpState


@pytest.mark.parametrize(
    ("facts", "role"),
    [
        (Facts(alive=False), Role.STOPPED),
        (Facts(alive=False, held=VIP, orphaned=VIP), Role.STOPPED),
        (Facts(alive=True, held=VIP), Role.PRIMARY),
        (Facts(alive=True, held=VIP, bus=frozenset({S.BACKUP})), Role.PRIMARY),
        (Facts(alive=True, held=VIP, orphaned=VIP), Role.BACKUP),
        (Facts(alive=True), Role.BACKUP),
        (Facts(alive=True, bus=frozenset({S.MASTER})), Role.BACKUP),
        (Facts(alive=True, bus=frozenset({S.FAULT, S.BACKUP})), Role.FAULT),
        (Facts(alive=True, bus=frozenset({S.BACKUP}), word=S.FAULT), Role.BACKUP),
        (Facts(alive=True, word=S.FAULT), Role.FAULT),
        (Facts(alive=True, word=S.MASTER), Role.BACKUP),
        # a part of the addresses: keepalived's word decides
        (Facts(alive=True, held=VIP, wanted=BOTH), Role.BACKUP),
        (Facts(alive=True, held=VIP, wanted=BOTH, bus=BACKUP), Role.BACKUP),
        (Facts(alive=True, held=VIP, wanted=BOTH, bus=BACKUP, word=S.MASTER, served=True), Role.BACKUP),
        (Facts(alive=True, held=VIP, wanted=BOTH, bus=MASTER | BACKUP), Role.PRIMARY),
        (Facts(alive=True, held=VIP, wanted=BOTH, word=S.MASTER), Role.PRIMARY),
        (Facts(alive=True, held=VIP, wanted=BOTH, served=True), Role.PRIMARY),
        (Facts(alive=True, held=VIP, wanted=BOTH, word=S.BACKUP, served=True), Role.BACKUP),
        # all of them: its word counts once it was asked after they came
        (Facts(alive=True, held=BOTH, wanted=BOTH), Role.PRIMARY),
        (Facts(alive=True, held=BOTH, wanted=BOTH, bus=BACKUP), Role.PRIMARY),
        (Facts(alive=True, held=BOTH, wanted=BOTH, bus=BACKUP, settled=True), Role.BACKUP),
        (Facts(alive=True, held=BOTH, wanted=BOTH, bus=MASTER, settled=True), Role.PRIMARY),
        (Facts(alive=True, held=BOTH, wanted=BOTH, settled=True), Role.PRIMARY),
    ],
)
def test_assess(facts: Facts, role: Role) -> None:
    assert assess(facts) is role


@pytest.mark.parametrize(
    ("facts", "problems"),
    [
        (Facts(alive=True, held=VIP, bus=frozenset({S.MASTER})), set()),
        (Facts(alive=True, bus=frozenset({S.BACKUP})), set()),
        (Facts(alive=True, held=VIP), set()),
        (Facts(alive=False), {Condition.KEEPALIVED}),
        (Facts(alive=False, held=VIP, orphaned=VIP), {Condition.KEEPALIVED, Condition.ORPHANED_ADDRESS}),
        (Facts(alive=True, held=VIP, bus=frozenset({S.BACKUP})), {Condition.CONTRADICTION}),
        (Facts(alive=True, held=NONE, bus=frozenset({S.MASTER})), {Condition.CONTRADICTION}),
        (Facts(alive=True, held=VIP, wanted=BOTH, bus=BACKUP, settled=True), {Condition.CONTRADICTION}),
        (Facts(alive=True, held=BOTH, wanted=BOTH, bus=BACKUP, settled=True), {Condition.CONTRADICTION}),
        (Facts(alive=True, held=VIP, wanted=BOTH), {Condition.CONTRADICTION}),
        (Facts(alive=True, held=VIP, wanted=BOTH, bus=MASTER, settled=True), {Condition.ADDRESSES}),
        (Facts(alive=True, held=BOTH, wanted=BOTH, bus=MASTER, settled=True), set()),
        (Facts(alive=True, wanted=BOTH, bus=BACKUP, settled=True), set()),
    ],
)
def test_contradictions(facts: Facts, problems: set[Condition]) -> None:
    assert {condition for condition, ok, _ in contradictions(facts) if not ok} == problems
    assert all(text for _, _, text in contradictions(facts))


@pytest.mark.parametrize(
    ("facts", "proven"),
    [
        (Facts(alive=True, held=BOTH, wanted=BOTH), True),
        (Facts(alive=True, held=BOTH, wanted=BOTH, bus=MASTER), True),
        (Facts(alive=True, held=BOTH, wanted=BOTH, bus=MASTER | BACKUP), False),
        (Facts(alive=True, held=VIP, wanted=BOTH, bus=MASTER), False),
        (Facts(alive=True, held=BOTH, orphaned=VIP, wanted=BOTH, bus=MASTER), False),
        (Facts(alive=True, wanted=BOTH, bus=BACKUP), False),
        (Facts(alive=False, held=BOTH, wanted=BOTH), False),
    ],
)
def test_addresses_that_prove_the_role(facts: Facts, proven: bool) -> None:
    assert serves(facts) is proven


def test_the_missing_addresses_are_named() -> None:
    facts = Facts(alive=True, held=VIP, wanted=BOTH, bus=MASTER)
    (text,) = (text for _, ok, text in contradictions(facts) if not ok)
    assert "172.16.0.1%eth1" in text
    assert "192.168.0.100" not in text


def test_addresses_are_contested_only_where_keepalived_is_not_master() -> None:
    assert Facts(alive=True, held=BOTH, wanted=BOTH, bus=BACKUP).contested
    for facts in (
        Facts(alive=True, held=BOTH, wanted=BOTH, bus=MASTER),
        Facts(alive=True, held=BOTH, wanted=BOTH),
        Facts(alive=True, held=VIP, wanted=BOTH, bus=BACKUP),
        Facts(alive=True, wanted=BOTH, bus=BACKUP),
    ):
        assert not facts.contested
