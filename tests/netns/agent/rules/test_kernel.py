# SPDX-License-Identifier: GPL-2.0-or-later
"""The adapter and the real libnftables: one transaction, our table only, and changes by hand are found."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from agent.adapters.nftables import Nftables
from agent.adapters.ruleset_dump import read_table
from agent.config.loader import load, parse
from agent.core.roles import RuleSet
from agent.errors import OvertakenError, ToolError
from agent.model.pair import Pair, PortRange, Protocol, Service
from agent.rules.compile import compile_pair
from agent.rules.nft_parse import parse_object
from agent.rules.objects import TABLES
from tests.checkout import GOLDEN
from tests.netns.namespaces import Namespace, start_namespaces

pytestmark = pytest.mark.netns
FOLDER = GOLDEN / "rules"
CASES = sorted(case.name for case in FOLDER.iterdir())
PAIR = load(FOLDER / "described" / "hafw.yaml")
roles = pytest.mark.parametrize("role", list(RuleSet))

TAKE_OUT = "delete table inet hafw; delete table inet hafw-gate"
FOREIGN = """
table ip docker-bridges {
    map published {
        type inet_service : ipv4_addr . inet_service
        elements = { 8080 : 172.17.0.2 . 80 }
    }
    chain nat {
        type nat hook prerouting priority -100
        dnat ip to tcp dport map @published
    }
}
table inet hafw2 {
    chain role {
        counter comment "not ours"
    }
}
table ip hafw {
    chain forward {
        type filter hook forward priority 0
        counter
    }
}
"""


@pytest.fixture
def node() -> Iterator[Namespace]:
    with start_namespaces("fw-1") as (started,):
        yield started


def adapter_in(node: Namespace, pair: Pair = PAIR) -> Nftables:
    with node.entered():
        return Nftables(compile_pair(pair))


def ruleset(node: Namespace) -> object:
    return json.loads(node.run("nft", "-j", "list", "ruleset"))


@pytest.mark.parametrize("case", CASES)
@roles
def test_every_golden_case_loads_flips_and_verifies(node: Namespace, case: str, role: RuleSet) -> None:
    other = next(each for each in RuleSet if each is not role)
    rules = adapter_in(node, load(FOLDER / case / "hafw.yaml"))
    loaded = rules.load(role)
    state = rules.verify(role)
    assert (state.present, state.rules, state.digest, state.drift) == (True, role, loaded.digest, None)
    rules.flip(other)
    assert rules.verify(other).drift is None
    assert f"has the {other.value}'s rules" in str(rules.verify(role).drift)
    rules.flip(role)
    assert rules.verify(role).drift is None
    # what a flip leaves is what a load leaves
    flipped = rules.read()
    rules.load(role)
    assert rules.read() == flipped


@pytest.mark.parametrize("case", CASES)
def test_the_listing_can_be_loaded_again_as_text(node: Namespace, case: str) -> None:
    """An administrator may save our rules with the rest. (1.0.6 then writes some sets another way.)"""
    rules = adapter_in(node, load(FOLDER / case / "hafw.yaml"))
    rules.load(RuleSet.BACKUP)
    before = rules.read()
    listings = [node.run("nft", "list", "table", "inet", table) for table in TABLES]
    node.run("nft", f"flush ruleset; {''.join(listings)}")
    assert rules.read() == before


@pytest.mark.parametrize("case", CASES)
def test_all_that_nft_lists_of_ours_is_understood(node: Namespace, case: str) -> None:
    adapter_in(node, load(FOLDER / case / "hafw.yaml")).load(RuleSet.BACKUP)
    with node.entered():
        found = [parse_object(kind, body) for kind, body in read_table().entries]
    assert len(found) > 50
    assert [one for one in found if "Raw(" in repr(one)] == []


def test_a_fresh_process_reads_the_role_and_cannot_vouch_for_the_rest(node: Namespace) -> None:
    assert not adapter_in(node).read().present
    adapter_in(node).load(RuleSet.PRIMARY)
    fresh = adapter_in(node)
    assert fresh.read().rules is RuleSet.PRIMARY
    assert "not loaded by this process" in str(fresh.verify(RuleSet.PRIMARY).drift)
    fresh.flip(RuleSet.BACKUP)
    assert fresh.read().rules is RuleSet.BACKUP


def test_other_tables_are_left_alone(node: Namespace) -> None:
    rules = adapter_in(node)
    rules.load(RuleSet.BACKUP)
    node.run("nft", FOREIGN)
    assert rules.verify(RuleSet.BACKUP).drift is None
    node.run("nft", TAKE_OUT)
    before = ruleset(node)
    rules.load(RuleSet.BACKUP)
    rules.flip(RuleSet.PRIMARY)
    rules.load(RuleSet.PRIMARY)
    assert rules.verify(RuleSet.PRIMARY).drift is None
    assert ruleset(node) != before
    node.run("nft", TAKE_OUT)
    assert ruleset(node) == before


def test_a_transaction_that_fails_changes_nothing(node: Namespace) -> None:
    good = adapter_in(node)
    good.load(RuleSet.PRIMARY)
    before = ruleset(node)
    unheard = Service("unheard", Protocol.TCP, (PortRange(1, 1),), helper="no-such-helper")
    broken = replace(PAIR, policy=(replace(PAIR.policy[0], services=(*PAIR.policy[0].services, unheard)),))
    for rules in (adapter_in(node, broken), good.succeed(compile_pair(broken))):
        with pytest.raises(ToolError, match="check the rules"):
            rules.check(RuleSet.BACKUP)
        with pytest.raises(ToolError, match="load the rules"):
            rules.load(RuleSet.BACKUP)
        assert ruleset(node) == before
        # the context is fit for use after the failure
        with pytest.raises(ToolError):
            rules.flip(RuleSet.BACKUP)
        assert ruleset(node) == before
    assert good.verify(RuleSet.PRIMARY).drift is None


def test_a_check_changes_nothing(node: Namespace) -> None:
    rules = adapter_in(node)
    rules.check(RuleSet.PRIMARY)
    assert not rules.read().present


@roles
def test_flushed_rules_are_noticed_and_repaired(node: Namespace, role: RuleSet) -> None:
    rules = adapter_in(node)
    rules.load(role)
    node.run("nft", "flush ruleset")
    assert not rules.read().present
    assert "is gone" in str(rules.verify(role).drift)
    with pytest.raises(ToolError, match="No such file"):
        rules.flip(role)
    assert not rules.read().present
    rules.load(role)
    assert rules.verify(role).drift is None


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("add rule inet hafw forward accept", "chain forward"),
        ("insert rule inet hafw input tcp dport 23 accept", "chain input"),
        ("add rule inet hafw-gate closed accept", "chain closed"),
        ("add chain inet hafw-gate gate; flush chain inet hafw-gate gate", "chain gate"),
        ("add chain inet hafw-gate role; insert rule inet hafw-gate role accept", "chain role"),
        ("delete table inet hafw-gate", "table hafw-gate"),
        ("flush table inet hafw-gate", "chain closed"),
        ("add element inet hafw data { eth9 }", "set data"),
        ("delete element inet hafw own4 { eth0 . 192.168.0.1 }", "set own4"),
        ("add chain inet hafw forward { policy accept; }", "chain forward"),
        ("add chain inet hafw mine", "chain mine"),
        ("add chain inet hafw digest-0", "was not made from this pair file"),
        ("flush table inet hafw", "chain forward"),
    ],
)
@roles
def test_a_change_by_hand_is_found(node: Namespace, role: RuleSet, command: str, part: str) -> None:
    rules = adapter_in(node)
    rules.load(role)
    node.run("nft", command)
    assert part in str(rules.verify(role).drift)


def test_a_flip_does_not_wait_for_a_look_at_a_large_table(node: Namespace) -> None:
    """A handover may come while the agent looks whether its rules are still its own."""
    addresses = "".join(f"10.0.{number >> 7}.{number % 128 * 2}\n" for number in range(30_000))
    text = (FOLDER / "described" / "hafw.yaml").read_text()
    lines = "- {from: client, to: server, allow: [smtp], source: big}\n"
    texts = {
        "more.yaml": f"sets: {{big: {{file: big.txt}}}}\npolicy:\n{lines}",
        "big.txt": addresses,
    }
    rules = adapter_in(node, parse(f"{text}include: more.yaml\n", texts=texts))
    rules.load(RuleSet.BACKUP)
    begun = time.monotonic()
    assert rules.verify(RuleSet.BACKUP).drift is None
    look_s = time.monotonic() - begun
    overtaken = [flip_s for flip_s in (flip_in_a_look(rules, look_s / 4) for _ in range(5)) if flip_s]
    assert overtaken, "no look was overtaken by its flip"
    assert min(overtaken) < look_s / 5, f"flips took {overtaken} s, a look {look_s:.3f} s"


def flip_in_a_look(rules: Nftables, after_s: float) -> float | None:
    """How long the flip took. None when the look had not begun, or was over before."""
    found: list[BaseException] = []
    looking = threading.Thread(target=look_in_vain, args=(rules, found))
    looking.start()
    time.sleep(after_s)
    begun = time.monotonic()
    rules.flip(RuleSet.PRIMARY)
    took_s = time.monotonic() - begun
    looking.join()
    rules.flip(RuleSet.BACKUP)
    return took_s if found else None


def look_in_vain(rules: Nftables, found: list[BaseException]) -> None:
    try:
        rules.verify(RuleSet.BACKUP)
    except OvertakenError as error:
        found.append(error)


def test_two_agents_with_different_policies_notice_each_other(node: Namespace) -> None:
    ours, theirs = adapter_in(node), adapter_in(node, replace(PAIR, policy=()))
    ours.load(RuleSet.PRIMARY)
    theirs.load(RuleSet.BACKUP)
    assert "not made from this pair file" in str(ours.verify(RuleSet.PRIMARY).drift)
    with pytest.raises(ToolError):
        ours.flip(RuleSet.PRIMARY)
    assert theirs.verify(RuleSet.BACKUP).drift is None


def test_a_table_that_somebody_owns_is_an_error_and_stays(node: Namespace) -> None:
    """Owner flags are beyond nft 1.0.6, so the table is made by hand."""
    with closing(own_table(node)):
        rules = adapter_in(node)
        for role in RuleSet:
            with pytest.raises(ToolError, match="not permitted") as caught:
                rules.load(role)
            assert "another program" in str(caught.value.hint)
            with pytest.raises(ToolError):
                rules.flip(role)
    # its owner is gone, and the table with it
    rules.load(RuleSet.BACKUP)


def test_an_owned_table_of_another_program_is_left_alone(node: Namespace) -> None:
    with closing(own_table(node, b"theirs\0")):
        rules = adapter_in(node)
        assert not rules.read().present
        rules.load(RuleSet.BACKUP)
        rules.flip(RuleSet.PRIMARY)
        assert rules.verify(RuleSet.PRIMARY).drift is None


NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
REQUEST_CREATE = 0x1 | 0x400
INET = 1


def own_table(node: Namespace, table_name: bytes = b"hafw\0") -> socket.socket:
    """A table `inet` with the flag `owner`, held by the socket that is returned."""
    with node.entered():
        owner = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    owner.bind((0, 0))
    name = _attribute(1, table_name)
    flags = _attribute(2, struct.pack("!I", 2))
    batch = struct.pack("!BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
    begin = _message(16, 0x1, batch, 1)
    create = _message(
        NFNL_SUBSYS_NFTABLES << 8, REQUEST_CREATE | 0x4, bytes([INET, 0, 0, 0]) + name + flags, 2
    )
    owner.send(begin + create + _message(17, 0x1, batch, 3))
    answer = owner.recv(4096)
    assert struct.unpack_from("=i", answer, 16)[0] == 0
    return owner


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, body: bytes, sequence: int) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body
