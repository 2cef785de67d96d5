# SPDX-License-Identifier: GPL-2.0-or-later
"""Another program has removed the rules: what is closed until they are back, and what is not."""

from collections.abc import Iterator

import pytest

from agent.config import loader
from agent.core.roles import RuleSet
from agent.rules.compile import compile_pair
from agent.rules.holes import Hole
from tests.netns.agent.rules.test_peer import ALLOWED, FORBIDDEN, packets, start_hostile
from tests.netns.firewall import PAIR_FILE, Firewall, start_firewall
from tests.netns.packets import accept, connect, echo, listen, udp

pytestmark = pytest.mark.netns

OWN = {4: "192.168.2.1", 6: "fd00:0:0:c::1"}
CLIENT = {4: "192.168.2.10", 6: "fd00:0:0:c::10"}
TO_SELF = "policy:\n  - {from: client, to: self, allow: [{tcp: 8080}]}\n"


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as started:
        yield started


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("role", list(RuleSet))
def test_the_firewall_itself_is_closed_but_for_management_and_answers(
    firewall: Firewall, role: RuleSet, version: int
) -> None:
    own = OWN[version]
    for interface, vip in firewall.pair.vips() if role is RuleSet.BACKUP else ():
        firewall.node.ip(f"address del {vip} dev {interface.name}")
    rules = firewall.rules.succeed(compile_pair(loader.parse(PAIR_FILE.replace("policy:\n", TO_SELF))))
    rules.load(role)
    with (
        listen(firewall.node, own, 22),
        listen(firewall.node, own, 8080) as allowed,
        listen(firewall.node, own, 9999),
        listen(firewall.client, CLIENT[version], 9999) as theirs,
    ):
        old, mine = connect(firewall.client, own, 8080), connect(firewall.node, CLIENT[version], 9999)
        assert old is not None
        assert mine is not None
        firewall.node.run("nft", "flush ruleset")
        assert rules.close({Hole.TABLE})
        assert not rules.close({Hole.TABLE}), "there is a table"
        assert connect(firewall.client, own, 9999) is None
        assert connect(firewall.client, own, 8080) is None, "no policy is known"
        managed = connect(firewall.client, own, 22)
        assert managed is not None
        assert echo(firewall.client, own)
        with old, mine, managed, accept(allowed) as old_end, accept(theirs) as answering:
            old.sendall(b"still")
            assert old_end.recv(5) == b"still"
            answering.sendall(b"answer")
            assert mine.recv(6) == b"answer"
        with udp(firewall.node, own, 0) as asking:
            asking.connect((CLIENT[version], 9))
            asking.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                asking.recv(16)
        rules.load(role)
        assert rules.verify(role).drift is None
        again = connect(firewall.client, own, 8080)
        assert again is not None
        again.close()


@pytest.mark.parametrize("role", list(RuleSet))
def test_only_the_other_node_is_heard_without_the_rules(role: RuleSet) -> None:
    with start_hostile(role) as wire:
        wire.node.run("nft", "flush ruleset")
        assert wire.rules.close({Hole.TABLE})
        of_the_pair = list(packets(ALLOWED))[:-3]
        assert not [str(packet) for packet in of_the_pair if wire.send(packet) != "self"]
        assert not [str(packet) for packet in packets(FORBIDDEN) if wire.send(packet) != "drop"]
