"""From facts to a role: the table of the truth."""

import pytest

from agent.core.assess import Facts, VrrpState, assess, contradictions
from agent.core.conditions import Condition
from agent.core.roles import Role

VIP = frozenset({"192.168.0.100%eth0"})
NONE: frozenset[str] = frozenset()
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
    ],
)
def test_assess(facts: Facts, role: Role) -> None:
    assert assess(facts) is role


@pytest.mark.parametrize(
    ("facts", "unwell"),
    [
        (Facts(alive=True, held=VIP, bus=frozenset({S.MASTER})), set()),
        (Facts(alive=True, bus=frozenset({S.BACKUP})), set()),
        (Facts(alive=True, held=VIP), set()),
        (Facts(alive=False), {Condition.KEEPALIVED}),
        (Facts(alive=False, held=VIP, orphaned=VIP), {Condition.KEEPALIVED, Condition.ORPHANED_ADDRESS}),
        (Facts(alive=True, held=VIP, bus=frozenset({S.BACKUP})), {Condition.CONTRADICTION}),
        (Facts(alive=True, held=NONE, bus=frozenset({S.MASTER})), {Condition.CONTRADICTION}),
    ],
)
def test_contradictions(facts: Facts, unwell: set[Condition]) -> None:
    assert {condition for condition, well, _ in contradictions(facts) if not well} == unwell
    assert all(text for _, _, text in contradictions(facts))
