# SPDX-License-Identifier: GPL-2.0-or-later
"""What passes a closed gate, and what a flip does. What the kernel makes of it is in tests/netns."""

from ipaddress import ip_address

import pytest

from agent.config import loader
from agent.core.roles import RuleSet
from agent.rules.compile import compile_pair
from agent.rules.delta import model_of
from agent.rules.gate import (
    CLOSED,
    GATE,
    ROLE,
    ROLE_CHAINS,
    closed,
    flip,
    is_role_part,
    no_forward,
)
from agent.rules.objects import GATE_TABLE, TABLE, Chain, Command, Commands, Hook, Object, Rule, Verb, add
from agent.rules.simulate import Packet, verdict_of
from agent.rules.statements import DROP, Verdict, in_state
from tests.checkout import GOLDEN, ROOT

PAIR = loader.load(GOLDEN / "rules" / "described" / "hafw.yaml")
COMPILED = compile_pair(PAIR)
BACKUP = model_of(COMPILED.objects(RuleSet.BACKUP))
CLIENT_LAN, SERVER_LAN, SYNC = "eth1", "eth0", "eth2"
TCP, IGMP, OSPF, VRRP, AH = 6, 2, 89, 112, 51
OTHER = "192.168.0.10"


def own_addresses(interface: str) -> list[str]:
    (found,) = (one for one in PAIR.interfaces if one.name == interface)
    return [str(address.ip) for _, addresses in found.addresses for address in addresses]


def verdict(iifname: str, daddr: str, protocol: int = TCP) -> Verdict:
    """Of the gate of a backup, about a packet that comes in."""
    return verdict_of(BACKUP, GATE, Packet(iifname=iifname, daddr=ip_address(daddr), protocol=protocol))


def test_the_addresses_of_both_nodes_pass_on_their_own_interface_only() -> None:
    for interface, other in ((CLIENT_LAN, SERVER_LAN), (SERVER_LAN, CLIENT_LAN)):
        own = own_addresses(interface)
        assert len(own) >= 2, "one of each node"
        assert {verdict(interface, address) for address in own} == {Verdict.ACCEPT}
        # routed to the peer's address, it would be answered before the forward hook sees it
        assert {verdict(other, address) for address in own} == {Verdict.DROP}


@pytest.mark.parametrize(
    ("daddr", "protocol", "passes"),
    [
        (OTHER, TCP, False),
        ("192.168.2.100", TCP, False),
        ("224.0.0.18", VRRP, True),
        ("224.0.0.18", AH, True),
        ("224.0.0.18", OSPF, False),
        ("ff02::12", VRRP, True),
        ("224.0.0.22", IGMP, True),
        ("239.1.1.1", IGMP, False),
        ("224.0.0.5", OSPF, False),
        ("fe80::1", TCP, True),
        ("ff02::5", OSPF, False),
    ],
)
def test_what_a_closed_gate_lets_pass(daddr: str, protocol: int, passes: bool) -> None:
    assert verdict(CLIENT_LAN, daddr, protocol) is (Verdict.ACCEPT if passes else Verdict.DROP)


def test_what_comes_over_the_sync_link_is_not_asked() -> None:
    assert verdict(SYNC, OTHER) is Verdict.ACCEPT


def test_the_gate_comes_before_all_that_remembers_and_the_role_before_the_policy() -> None:
    hooks = {name: chain.hook for name, chain in BACKUP.chains.items() if chain.hook is not None}
    assert hooks[GATE].name == "prerouting"
    assert hooks[GATE].priority == min(hook.priority for hook in hooks.values()) < -400
    assert (hooks[ROLE].name, hooks["forward"].name) == ("forward", "forward")
    assert hooks[ROLE].priority < hooks["forward"].priority
    assert [verdict_of(BACKUP, ROLE, Packet(ct_state=state)) for state in ("new", "established")] == [
        Verdict.DROP,
        Verdict.DROP,
    ]


def test_a_primarys_packets_pass_no_chain_of_the_gate() -> None:
    of_gate = [one for one in COMPILED.objects(RuleSet.PRIMARY) if one.table == GATE_TABLE]
    assert not [one for one in of_gate if isinstance(one, Chain) and one.hook is not None]
    assert any(isinstance(one, Rule) and one.chain == CLOSED for one in of_gate)


Chains = dict[str, list[Rule]]


def carried_out(commands: Commands, chains: Chains) -> Chains:
    """As nft does it: what is not there can be neither filled, flushed nor deleted."""
    chains = {name: [*rules] for name, rules in chains.items()}
    for command in commands:
        assert command.target.table == GATE_TABLE
        match command:
            case Command(Verb.ADD, Chain(name=name)):
                chains.setdefault(name, [])
            case Command(Verb.ADD, Rule() as rule):
                chains[rule.chain].append(rule)
            case Command(Verb.FLUSH, Chain(name=name)):
                chains[name].clear()
            case Command(Verb.DELETE, Chain(name=name)):
                del chains[name]
            case other:
                raise AssertionError(other)
    return chains


def test_a_flip_leads_to_its_role_from_either() -> None:
    opened: Chains = {CLOSED: []}
    shut = carried_out(add(*closed()), opened)
    assert shut.keys() == {CLOSED, *ROLE_CHAINS}
    for there in (opened, shut):
        assert carried_out(flip(RuleSet.BACKUP), there) == shut
        assert carried_out(flip(RuleSet.PRIMARY), there) == opened


def test_the_parts_of_the_role_are_what_a_flip_changes() -> None:
    assert {(one.table, one.part) for one in closed()} == {
        (table, f"chain {name}")
        for table in (TABLE, GATE_TABLE)
        for name in (*ROLE_CHAINS, CLOSED, "forward")
        if is_role_part(table, f"chain {name}")
    }


def test_nothing_is_forwarded_as_at_boot() -> None:
    """systemd/boot.nft has chains of other names, and a comment."""
    lines = (ROOT / "systemd" / "boot.nft").read_text().splitlines()
    boot = [line.split(" { ")[-1].split(" boot ")[-1] for line in lines if line.startswith("add ")]
    assert [text.partition(" comment ")[0].rstrip(" }") for text in boot] == [
        text for one in no_forward() for text in words(one)
    ]


def words(one: Object) -> list[str]:
    match one:
        case Chain(hook=Hook(name, priority, policy, kind)):
            more = "" if policy == "accept" else f" policy {policy};"
            return [f"type {kind} hook {name} priority {priority};{more}"]
        case Rule(statements=statements):
            asked = ["ct state established"] if len(statements) > 1 else []
            assert statements[:-1] == ((in_state("established"),) if asked else ())
            assert statements[-1] == DROP
            return [" ".join([*asked, "drop"])]
    raise AssertionError(one)
