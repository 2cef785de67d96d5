# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate, and what makes the only difference between a primary and a backup.

The gate comes before everything that could remember or answer a packet: hook prerouting, priority -450,
which is before defragmentation (-400), raw (-300) and connection tracking (-200). A packet that a closed
gate drops leaves no conntrack state and no reassembly queue, and nobody answers it.

Prerouting sees whatever arrives on a data interface, in both directions of every connection, so a closed
gate alone stops all forwarding. The chain `role` stops it a second time, before the policy's forward chain:
on a backup even an established connection must not pass.

The two base chains are there only while the gate is closed, so that a primary's packets meet none of it:
each look at a set or an interface's name would cost a forwarded packet some 3 %.

    chain    primary      backup
    gate     not there    jump to `closed`: what may pass always; count as `early`; drop
    role     not there    count as `backup`; drop

A flip adds or deletes them and nothing else. They have a table of their own, because a transaction that
adds a rule with a verdict makes the kernel look through the whole table of that rule again, half a
microsecond for each rule. The chain that they lead to, and the counters, stay.
"""

from collections.abc import Iterator, Mapping

from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules.nft_json import (
    ACCEPT,
    DROP,
    GATE_TABLE,
    IIFNAME,
    L4PROTO,
    RETURN,
    TABLE,
    Command,
    Commands,
    Json,
    add_base_chain,
    add_chain,
    add_counter,
    add_rule,
    add_set,
    concat,
    delete_chain,
    flush_chain,
    in_state,
    interface_name,
    ip,
    jump,
    match,
    named_counter,
    payload,
)

BEFORE_DEFRAG = -450
BEFORE_POLICY = -1
SOURCE_NAT = 100
GATE = "gate"
ROLE = "role"
ROLE_CHAINS = (GATE, ROLE)
CLOSED = "closed"
LOST_FORWARD = "lost-forward"
LOST_INPUT = "lost-input"
STOP_GAPS = (LOST_FORWARD, LOST_INPUT)
"""Empty chains of the gate's table that say which stop-gaps are in force."""

IGMP = 2
AH = 51
VRRP = 112
VRRP_GROUP_4 = "224.0.0.18"
VRRP_GROUP_6 = "ff02::12"
LINK_LOCAL_4: Json = {"prefix": {"addr": "224.0.0.0", "len": 24}}
LINK_LOCAL_6: Json = {"prefix": {"addr": "fe80::", "len": 10}}
LINK_GROUPS_6: Json = {"prefix": {"addr": "ff02::", "len": 16}}

NEIGHBOUR_DISCOVERY: Json = {
    "set": ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
}
MULTICAST_LISTENERS: Json = {
    "set": ["mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report"]
}


def gate(pair: Pair) -> Commands:
    """What is there in every role."""
    return (
        *own_sets(TABLE, pair),
        add_counter(GATE_TABLE, "early"),
        add_counter(GATE_TABLE, "backup"),
        add_chain(GATE_TABLE, CLOSED),
        add_rule(GATE_TABLE, CLOSED, match(IIFNAME, {"set": _data_interfaces(pair)}, "!="), RETURN),
        *_passing(pair),
        add_rule(GATE_TABLE, CLOSED, named_counter("early"), DROP, comment="backup: the gate is closed"),
    )


def own_sets(table: str, pair: Pair) -> Commands:
    return (
        add_set(table, "data", "ifname", _data_interfaces(pair)),
        add_set(table, "own4", ["ifname", "ipv4_addr"], _own_addresses(pair, 4)),
        add_set(table, "own6", ["ifname", "ipv6_addr"], _own_addresses(pair, 6)),
    )


def closed() -> Commands:
    """The two chains with their rules: only expressions that every nft lists exactly as they were given."""
    return (*_CHAINS, *_RULES)


def flip(rules: RuleSet) -> Commands:
    """From either role."""
    flushed = (flush_chain(GATE_TABLE, name) for name in ROLE_CHAINS)
    change = (
        (*flushed, *_RULES)
        if rules is RuleSet.BACKUP
        else (delete_chain(GATE_TABLE, name) for name in ROLE_CHAINS)
    )
    # what is not there cannot be deleted, and adding what is there does nothing
    return (*_CHAINS, *change)


def no_forward() -> Commands:
    """Nothing is forwarded. The same as systemd/boot.nft, which says why each line is there."""
    return (
        add_base_chain(GATE_TABLE, "lost", "forward", BEFORE_DEFRAG, policy="drop"),
        add_base_chain(GATE_TABLE, "lost-nat", "postrouting", SOURCE_NAT, kind="nat"),
        add_rule(GATE_TABLE, "lost", in_state("established"), DROP),
        add_rule(GATE_TABLE, "lost", DROP),
    )


def is_role_part(kind: str, body: Mapping[str, object]) -> bool:
    """Whether an object of a table, or what makes it, is there or not as the role is."""
    name = {"chain": "name", "rule": "chain"}.get(kind)
    return name is not None and body.get("table") == GATE_TABLE and body.get(name) in ROLE_CHAINS


_CHAINS = (
    add_base_chain(GATE_TABLE, GATE, "prerouting", BEFORE_DEFRAG),
    add_base_chain(GATE_TABLE, ROLE, "forward", BEFORE_POLICY),
)
_RULES = (
    add_rule(GATE_TABLE, GATE, jump(CLOSED)),
    add_rule(GATE_TABLE, ROLE, named_counter("backup"), DROP, comment="backup: nothing is forwarded"),
)


def _passing(pair: Pair) -> Iterator[Command]:
    """What passes a closed gate. The input chain still filters it; none of it can be forwarded by a backup.

    Management, the replies to the node's own questions and BFD go to the nodes' own addresses. Those count
    only on their own interface: a packet to the peer's address behind this node would otherwise get as far
    as routing, which answers a TTL of 1 before the forward hook sees it.
    """
    for version in (4, 6):
        if own := _own_addresses(pair, version):
            here = concat(IIFNAME, payload(ip(version), "daddr"))
            yield add_rule(GATE_TABLE, CLOSED, match(here, {"set": own}), ACCEPT)
    yield from vrrp_rules(CLOSED)
    yield add_rule(
        GATE_TABLE, CLOSED, match(payload("ip", "daddr"), LINK_LOCAL_4), match(L4PROTO, IGMP), ACCEPT
    )
    yield from neighbour_rules(GATE_TABLE, CLOSED)
    yield add_rule(GATE_TABLE, CLOSED, match(payload("ip6", "daddr"), LINK_LOCAL_6), ACCEPT)


def vrrp_rules(chain: str) -> Commands:
    """VRRP by multicast; by unicast it goes to an own address."""
    return tuple(
        add_rule(
            GATE_TABLE,
            chain,
            match(payload(protocol, "daddr"), group),
            match(L4PROTO, {"set": [AH, VRRP]}),
            ACCEPT,
        )
        for protocol, group in (("ip", VRRP_GROUP_4), ("ip6", VRRP_GROUP_6))
    )


def neighbour_rules(table: str, chain: str) -> Commands:
    icmpv6 = payload("icmpv6", "type")
    return (
        add_rule(
            table, chain, match(icmpv6, NEIGHBOUR_DISCOVERY), match(payload("ip6", "hoplimit"), 255), ACCEPT
        ),
        add_rule(
            table,
            chain,
            match(icmpv6, MULTICAST_LISTENERS),
            match(payload("ip6", "daddr"), LINK_GROUPS_6),
            ACCEPT,
        ),
    )


def _data_interfaces(pair: Pair) -> list[Json]:
    return [interface_name(interface.name) for interface in pair.data_interfaces]


def _own_addresses(pair: Pair, version: int) -> list[Json]:
    """The addresses of both nodes, so that the table is the same on both."""
    return [
        concat(interface_name(interface.name), str(address.ip))
        for interface in pair.data_interfaces
        for _, addresses in interface.addresses
        for address in addresses
        if address.version == version
    ]
