# SPDX-License-Identifier: GPL-2.0-or-later
"""Another program opens a part of our tables: what the kernel says of it is enough to close that at once,
and the repair leaves nothing of what closed it."""

from collections.abc import Iterator

import pytest

from agent.adapters.nft_monitor import RulesWatch
from agent.config import loader
from agent.core.roles import RuleSet
from agent.rules.compile import compile_pair
from agent.rules.gate import STOP_GAPS
from agent.rules.holes import UNKNOWN, Deed, Hole, TableChange, holes
from agent.rules.objects import TABLES
from tests.netns.firewall import PAIR_FILE, Firewall, start_firewall
from tests.netns.packets import connect, echo, listen

pytestmark = pytest.mark.netns

OWN, SERVER = "192.168.2.1", "192.168.0.10"
ALLOWED, FORBIDDEN, TO_SELF = 443, 9999, 8080
SERVICE = f"policy:\n  - {{from: client, to: self, allow: [{{tcp: {TO_SELF}}}]}}\n"
THROUGH, IN = frozenset({Hole.FORWARD}), frozenset({Hole.INPUT})
BOTH = THROUGH | IN
PRIMARY, BACKUP = RuleSet.PRIMARY, RuleSet.BACKUP

OPENED: dict[str, tuple[RuleSet, frozenset[Hole], tuple[str, ...]]] = {
    "forward removed": (
        PRIMARY,
        THROUGH,
        ("flush chain inet hafw forward", "delete chain inet hafw forward"),
    ),
    "forward accepts": (
        PRIMARY,
        THROUGH,
        ("chain inet hafw forward { policy accept; }", "flush chain inet hafw forward"),
    ),
    "forward empty, then accepts": (
        PRIMARY,
        THROUGH,
        ("flush chain inet hafw forward", "chain inet hafw forward { policy accept; }"),
    ),
    "forward again": (
        PRIMARY,
        THROUGH,
        (
            "flush chain inet hafw forward; delete chain inet hafw forward;"
            " add chain inet hafw forward { type filter hook forward priority 0; }",
        ),
    ),
    "input removed": (PRIMARY, IN, ("flush chain inet hafw input", "delete chain inet hafw input")),
    "input accepts": (
        PRIMARY,
        IN,
        ("chain inet hafw input { policy accept; }", "flush chain inet hafw input"),
    ),
    "dormant": (PRIMARY, BOTH, ("add table inet hafw { flags dormant; }",)),
    "gate removed": (BACKUP, BOTH, ("delete table inet hafw-gate",)),
    "gate dormant": (BACKUP, BOTH, ("add table inet hafw-gate { flags dormant; }",)),
    "gate empty": (
        BACKUP,
        BOTH,
        ("flush chain inet hafw-gate gate", "flush chain inet hafw-gate role"),
    ),
    "gate says yes": (
        BACKUP,
        BOTH,
        (
            "insert rule inet hafw-gate gate accept",
            "insert rule inet hafw-gate role accept",
        ),
    ),
    "closed lets through": (
        BACKUP,
        BOTH,
        ("flush chain inet hafw-gate closed", "delete chain inet hafw-gate role"),
    ),
}
HARMLESS: dict[str, tuple[RuleSet, tuple[str, ...]]] = {
    "more in the policy": (PRIMARY, ("insert rule inet hafw forward counter",)),
    "less in the policy": (PRIMARY, ("flush chain inet hafw from/eth1/to/eth0",)),
    "empty, and drops": (PRIMARY, ("flush chain inet hafw forward",)),
    "the gate of a primary": (PRIMARY, ("delete table inet hafw-gate",)),
    "not ours": (PRIMARY, ("add table ip hafw", "delete table ip hafw", "add table inet x")),
    "elements": (BACKUP, ("delete element inet hafw data { eth1 }",)),
}


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as started:
        yield started


def start_watch(firewall: Firewall) -> RulesWatch:
    with firewall.node.entered():
        return RulesWatch()


def seen(watch: RulesWatch, rules: RuleSet) -> frozenset[Hole]:
    return frozenset(hole for change in watch.drain() for hole in holes(change, rules))


def listed(firewall: Firewall) -> list[str]:
    """Without counts and in no order: a chain that was removed comes back as the last one."""
    return [
        line
        for table in TABLES
        for line in sorted(firewall.node.run("nft", "-s", "list", "table", "inet", table).splitlines())
    ]


def is_open(firewall: Firewall, address: str, port: int) -> bool:
    connection = connect(firewall.client, address, port)
    if connection is not None:
        connection.close()
    return connection is not None


@pytest.mark.parametrize("what", OPENED)
def test_what_was_opened_is_closed_until_it_is_repaired(firewall: Firewall, what: str) -> None:
    role, wanted, commands = OPENED[what]
    rules = firewall.rules.succeed(compile_pair(loader.parse(PAIR_FILE.replace("policy:\n", SERVICE))))
    rules.load(role)
    tables = listed(firewall)
    firewall.server.ip("route add 192.168.2.0/24 via 192.168.0.1")  # where nothing is translated any more
    # what a backup forwards is allowed by the policy that is left
    through = (SERVER, ALLOWED if role is BACKUP else FORBIDDEN)
    into = (OWN, TO_SELF if role is BACKUP else FORBIDDEN)
    watch = start_watch(firewall)
    with (
        listen(firewall.node, OWN, into[1]),
        listen(firewall.node, OWN, 22),
        listen(firewall.server, SERVER, through[1]),
    ):
        assert not is_open(firewall, *through)
        assert role is BACKUP or not is_open(firewall, *into)
        for command in commands:
            firewall.node.run("nft", command)
        found = seen(watch, role)
        assert found == wanted
        assert is_open(firewall, *through) == (Hole.FORWARD in wanted)
        assert is_open(firewall, *into) == (Hole.INPUT in wanted)

        assert rules.close(found) == wanted
        assert not rules.close(found), "it is closed"
        assert not is_open(firewall, *through)
        assert Hole.INPUT not in wanted or not is_open(firewall, *into)
        assert is_open(firewall, OWN, 22), "management"
        assert echo(firewall.client, OWN)

        before = rules.verify(role).drift
        assert before is not None
        rules.load(role)
        assert rules.verify(role).drift is None
        assert not seen(watch, role) - {Hole.TABLE}, "all this was ours, if it was not too much"
        assert not is_open(firewall, *through)
        assert is_open(firewall, OWN, 22)
    assert listed(firewall) == tables
    watch.close()


@pytest.mark.parametrize("what", HARMLESS)
def test_what_opens_nothing_closes_nothing(firewall: Firewall, what: str) -> None:
    role, commands = HARMLESS[what]
    firewall.rules.load(role)
    watch = start_watch(firewall)
    for command in commands:
        firewall.node.run("nft", command)
    assert not seen(watch, role)
    watch.close()


def test_what_we_do_ourselves_is_skipped(firewall: Firewall) -> None:
    watch = start_watch(firewall)
    firewall.rules.load(BACKUP)
    watch.drain()  # of a whole load the socket may not hold everything
    for role in (PRIMARY, BACKUP, PRIMARY):
        firewall.rules.flip(role)
        assert not watch.drain()
    following = firewall.rules.succeed(compile_pair(loader.parse(PAIR_FILE.replace("https, ", ""))))
    following.load(PRIMARY)
    assert watch.drain() <= {UNKNOWN}
    following.close({Hole.FORWARD, Hole.INPUT})
    following.load(PRIMARY)
    assert watch.drain() <= {UNKNOWN}
    following.flip(BACKUP)
    firewall.node.run("nft", "delete table inet hafw-gate")
    assert TableChange("hafw-gate", None, Deed.REMOVED) in watch.drain()
    watch.close()


def test_a_flush_behind_an_opened_chain_closes_the_rest(firewall: Firewall) -> None:
    """A stop-gap that is there does not keep the larger one out."""
    firewall.rules.load(PRIMARY)
    watch = start_watch(firewall)
    firewall.node.run("nft", "flush chain inet hafw forward; delete chain inet hafw forward")
    assert firewall.rules.close(seen(watch, PRIMARY)) == THROUGH
    firewall.node.run("nft", "delete table inet hafw")
    with listen(firewall.node, OWN, FORBIDDEN):
        assert is_open(firewall, OWN, FORBIDDEN)
        assert Hole.TABLE in seen(watch, PRIMARY)
        assert firewall.rules.close({Hole.TABLE}) == {Hole.TABLE}
        assert not is_open(firewall, OWN, FORBIDDEN)
    firewall.rules.load(PRIMARY)
    assert not any(gap in firewall.node.run("nft", "list ruleset") for gap in STOP_GAPS)
    watch.close()


def test_a_role_that_comes_while_it_is_closed_gets_its_rules(firewall: Firewall) -> None:
    firewall.rules.load(BACKUP)
    firewall.node.run("nft", "delete table inet hafw-gate")
    assert firewall.rules.close(BOTH) == BOTH
    firewall.rules.load(PRIMARY)
    assert firewall.rules.verify(PRIMARY).drift is None
    with listen(firewall.server, SERVER, ALLOWED):
        assert is_open(firewall, SERVER, ALLOWED)
