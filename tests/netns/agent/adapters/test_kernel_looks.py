# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent asks the kernel of links, neighbors and other programs' chains, with the real kernel."""

import json
import select
import time
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from agent.adapters.chains import MAX_RULES, Chains
from agent.adapters.links import Links, LinkWatch
from agent.adapters.neighbors import Neighbors
from agent.core.chains import BaseChain, Ends
from agent.core.links import Link, find_fault
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.netns

VIP, VIP6 = "192.168.0.100", "fd00:0:0:a::100"


# -- links --


def read(node: Namespace) -> dict[str, Link]:
    with node.entered():
        links = Links()
    try:
        return {link.name: link for link in links.read()}
    finally:
        links.close()


def test_links_are_read_as_they_are(ends: tuple[Namespace, Namespace]) -> None:
    here, there = ends
    here.ip("link add many type veth peer name other")
    here.ip("address add 10.0.0.1 peer 10.0.0.2/32 dev many")
    links = read(here)
    assert set(links) == {"lo", "eth0", "many", "other"}
    assert links["lo"].kind == "loopback"
    assert links["eth0"].kind == links["many"].kind == "veth"
    assert {ip_interface("192.168.0.1/24"), ip_interface("fd00:0:0:a::1/64")} <= set(links["eth0"].addresses)
    assert links["many"].addresses == (ip_interface("10.0.0.1/32"),), "our own end, not the peer's"
    assert (links["many"].up, links["eth0"].up, links["eth0"].carrier) == (False, True, True)
    there.ip("link set eth0 down")
    assert find_fault("eth0", tuple(read(here).values())) == "has no carrier"
    here.ip("link set eth0 down")
    assert find_fault("eth0", tuple(read(here).values())) == "is down"


def test_a_loss_of_carrier_is_reported_at_once(ends: tuple[Namespace, Namespace]) -> None:
    here, there = ends
    with here.entered():
        watch = LinkWatch()
    try:
        watch.drain()
        there.ip("link set eth0 down")
        assert select.select([watch], [], [], 2)[0]
        watch.drain()
        assert not select.select([watch], [], [], 0)[0]
    finally:
        watch.close()


# -- neighbors --


def ask(node: Namespace, address: str, timeout_s: float = 5.0) -> str | None:
    """Who answers now; asked as the agent does, until somebody has."""
    with node.entered():
        neighbors = Neighbors()
    index = read(node)["eth0"].index
    until = time.monotonic() + timeout_s
    try:
        neighbors.question(index, ip_address(address))
        while (found := neighbors.answer(index, ip_address(address))) is None:
            if time.monotonic() > until:
                return None
            select.select([], [], [], 0.02)
        return found
    finally:
        neighbors.close()


def mac_of(node: Namespace) -> str:
    return str(json.loads(node.run("ip", "-j", "link", "show", "eth0"))[0]["address"])


@pytest.mark.parametrize("address", [VIP, VIP6])
def test_who_holds_an_address_answers(ends: tuple[Namespace, Namespace], address: str) -> None:
    here, there = ends
    assert ask(here, address, 0.5) is None
    length = 24 if address == VIP else 64
    there.ip(f"address add {address}/{length} dev eth0{'' if address == VIP else ' nodad'}")
    assert ask(here, address) == mac_of(there)
    there.ip(f"address del {address}/{length} dev eth0")
    assert ask(here, address, 1.0) is None, "an answer of before is none"


def test_another_node_with_our_own_address_answers(ends: tuple[Namespace, Namespace]) -> None:
    here, there = ends
    here.ip(f"address add {VIP}/24 dev eth0")
    assert ask(here, VIP, 1.0) is None, "a node does not answer itself"
    there.ip(f"address add {VIP}/24 dev eth0")
    assert ask(here, VIP) == mac_of(there)
    assert ask(there, VIP) == mac_of(here)
    there.ip(f"address del {VIP}/24 dev eth0")
    assert ask(here, VIP, 1.0) is None
    here.run("ping", "-c1", "-W2", VIP)


def test_without_a_carrier_nobody_answers(ends: tuple[Namespace, Namespace]) -> None:
    here, there = ends
    there.ip(f"address add {VIP}/24 dev eth0")
    there.ip("link set eth0 down")
    assert ask(here, VIP, 0.5) is None


# -- chains --

BASE = "type filter hook {hook} priority 0; policy {policy};"


def read_chains(node: Namespace, not_of: frozenset[tuple[str, str]] = frozenset()) -> tuple[BaseChain, ...]:
    with node.entered():
        chains = Chains()
    try:
        return chains.read(not_of)
    finally:
        chains.close()


def load(node: Namespace, *lines: str) -> None:
    for line in lines:
        node.run("nft", line)


@pytest.mark.parametrize(
    ("policy", "rules", "ends_in"),
    [
        ("accept", [], Ends.ACCEPT),
        ("drop", [], Ends.POLICY_DROP),
        ("drop", ["accept"], Ends.ACCEPT),
        ("drop", ["iifname eth0 accept"], Ends.POLICY_DROP),
        ("accept", ["drop"], Ends.RULE_DROP),
        ("accept", ["iifname eth0 drop"], Ends.ACCEPT),
        ("accept", ["ct state established accept", "counter log prefix x drop"], Ends.RULE_DROP),
        ("accept", ["counter reject with icmpx type admin-prohibited"], Ends.RULE_DROP),
        ("accept", ["accept", "drop"], Ends.ACCEPT),
        ("accept", ["jump zones", "reject"], Ends.RULE_DROP),
        ("accept", ["counter jump shut"], Ends.RULE_DROP),
        ("accept", ["iifname eth9 jump shut"], Ends.ACCEPT),
        ("accept", ["goto zones", "drop"], Ends.ACCEPT),
        ("accept", ["return", "drop"], Ends.ACCEPT),
        ("accept", ["goto shut"], Ends.RULE_DROP),
    ],
)
def test_what_a_chain_does_with_the_rest(
    ends: tuple[Namespace, Namespace], policy: str, rules: list[str], ends_in: Ends
) -> None:
    here, _ = ends
    load(here, "add table inet other", "add chain inet other zones", "add chain inet other shut")
    load(here, "add rule inet other zones iifname eth9 accept", "add rule inet other shut counter drop")
    load(here, f"add chain inet other it {{ {BASE.format(hook='forward', policy=policy)} }}")
    load(here, *(f"add rule inet other it {rule}" for rule in rules))
    assert read_chains(here) == (BaseChain("inet", "other", "it", "forward", ends_in),)


def test_which_chains_are_looked_at(ends: tuple[Namespace, Namespace]) -> None:
    here, _ = ends
    load(
        here,
        "add table inet mine",
        "add table ip a",
        "add table ip6 b { flags dormant; }",
        "add table netdev c",
    )
    load(here, f"add chain inet mine x {{ {BASE.format(hook='forward', policy='drop')} }}")
    load(here, f"add chain ip a i {{ {BASE.format(hook='input', policy='drop')} }}")
    load(here, f"add chain ip6 b f {{ {BASE.format(hook='forward', policy='drop')} }}")
    load(here, "add chain netdev c n { type filter hook ingress device eth0 priority 0; policy drop; }")
    load(here, "add chain ip a nat { type nat hook postrouting priority 100; }")
    assert set(read_chains(here, frozenset({("inet", "mine")}))) == {
        BaseChain("ip", "a", "i", "input", Ends.POLICY_DROP),
        BaseChain("netdev", "c", "n", "ingress", Ends.POLICY_DROP, ("eth0",)),
    }


def test_a_chain_with_very_many_rules_is_judged_by_its_policy(
    ends: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    here, _ = ends
    base = BASE.format(hook="forward", policy="accept")
    ports = "\n".join(f"tcp dport {number} accept" for number in range(1, 2 * MAX_RULES))
    (tmp_path / "rules").write_text(f"table inet other {{ chain it {{ {base}\n{ports}\ndrop\n}}\n}}\n")
    here.run("nft", "-f", str(tmp_path / "rules"))
    assert read_chains(here) == (BaseChain("inet", "other", "it", "forward", Ends.ACCEPT),)
