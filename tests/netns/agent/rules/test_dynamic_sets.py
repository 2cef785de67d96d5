# SPDX-License-Identifier: GPL-2.0-or-later
"""The elements of dynamic sets in a kernel: what a sending of the other node changes, and what is known
of a loss."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.adapters.dynamic_sets import Element, add_elements, delete_elements, list_elements
from agent.adapters.nftables import Nftables
from agent.adapters.sets_work import PUT, PUT_BESIDE, REPLACE, SetsDone, SetsJob, pack_elements, work
from agent.config import loader
from agent.core.roles import RuleSet
from agent.paths import Paths
from agent.rollout.active import OnDisk, adapter_of, remember
from agent.rules.compile import compile_pair
from tests.netns.firewall import PAIR_FILE, Firewall, start_firewall

pytestmark = pytest.mark.netns

TABLE = compile_pair(loader.parse(f"{PAIR_FILE}sets: {{blocked: {{dynamic: true}}}}\n"))
ONE, TWO, THREE = map(ip_address, ("192.0.2.1", "192.0.2.2", "2001:db8::3"))


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as started, started.node.entered():
        yield started


@pytest.fixture
def rules(firewall: Firewall) -> Nftables:
    made = firewall.rules.succeed(TABLE)
    made.load(RuleSet.PRIMARY)
    return made


def there() -> set[object]:
    return {one.address for one in list_elements("blocked")}


def do(what: str, wanted: tuple[object, ...], differing: bytes = b"") -> SetsDone:
    packed = pack_elements({"blocked": [Element(ip_address(str(one))) for one in wanted]})
    return work(SetsJob(what, ("blocked",), packed, differing))


def test_only_what_differs_in_two_sendings_is_changed(rules: Nftables) -> None:
    add_elements("blocked", [ONE])
    first = do(PUT, (TWO,))
    assert there() == {ONE}
    add_elements("blocked", [THREE])  # an administrator, who comes to the other node only later
    second = do(PUT, (TWO,), first.packed)
    assert (first.changed, second.changed, there()) == (0, 2, {TWO, THREE})
    third = do(PUT, (TWO, THREE), second.packed)
    assert (third, there()) == (SetsDone(), {TWO, THREE})


def test_what_an_administrator_has_deleted_does_not_come_again(rules: Nftables) -> None:
    add_elements("blocked", [ONE, TWO])
    delete_elements("blocked", [TWO])
    first = do(PUT, (ONE, TWO))
    assert there() == {ONE}
    assert do(PUT, (ONE,), first.packed) == SetsDone()
    assert there() == {ONE}


def test_a_node_that_has_lost_them_takes_all_at_once(rules: Nftables) -> None:
    add_elements("blocked", [ONE])
    assert do(PUT_BESIDE, (TWO,)).changed == 1
    assert there() == {ONE, TWO}
    assert do(REPLACE, (THREE,)).changed == 3
    assert there() == {THREE}


def test_a_set_that_another_program_has_deleted_is_lost(firewall: Firewall, rules: Nftables) -> None:
    rules.sets_are_right(rules.set_losses)
    firewall.nft("add rule inet hafw forward drop")
    rules.load(RuleSet.PRIMARY)
    assert not rules.sets_lost
    firewall.nft("delete set inet hafw blocked/6")
    rules.load(RuleSet.PRIMARY)
    assert rules.verify(RuleSet.PRIMARY).drift is None
    assert rules.sets_lost


def test_a_process_that_comes_after_a_loss_knows_of_it(
    firewall: Firewall, rules: Nftables, tmp_path: Path
) -> None:
    """And of none after all losses were made good."""
    paths = Paths(run_dir=tmp_path, state_dir=tmp_path)

    def next_process(before: Nftables) -> Nftables:
        remember(paths, before)
        found = adapter_of(OnDisk(paths), TABLE)
        found.load(RuleSet.PRIMARY)
        return found

    assert rules.sets_lost
    later = next_process(rules)
    assert later.sets_lost
    add_elements("blocked", [ONE])
    losses = later.set_losses
    firewall.nft("flush ruleset")
    later.load(RuleSet.PRIMARY)
    later.sets_are_right(losses)
    assert later.sets_lost  # this loss came while the one before was being made good
    later.sets_are_right(later.set_losses)
    add_elements("blocked", [ONE])
    last = next_process(later)
    assert not last.sets_lost
    assert there() == {ONE}
