# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate, and what makes the only difference between a primary and a backup.

The gate comes before everything that could remember or answer a packet: hook prerouting, priority -450,
which is before defragmentation (-400), raw (-300) and connection tracking (-200). A packet that a closed
gate drops leaves no conntrack state and no reassembly queue, and gets no reply.

Prerouting sees all that arrives on a data interface, in both directions of every connection, so a closed
gate alone stops all forwarding. The chain `role` stops it a second time, before the policy's forward chain:
on a backup even an established connection must not pass.

The two base chains are there only while the gate is closed, so that a primary's packets pass none of it:
each look at a set or an interface's name would cost a forwarded packet some 3 %.

    chain    primary      backup
    gate     not there    jump to `closed`: what may pass always; count as `early`; drop
    role     not there    count as `backup`; drop

A flip adds or deletes them and nothing else. They have a table of their own, because a transaction that
adds a rule with a verdict makes the kernel look through the whole table of that rule again, half a
microsecond for each rule. The chain that they lead to, and the counters, stay.
"""

from collections.abc import Iterator

from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules.objects import (
    GATE_TABLE,
    TABLE,
    Chain,
    Commands,
    CounterObject,
    Object,
    Set,
    add,
    base_chain,
    delete_chain,
    flush_chain,
    make_rule,
)
from agent.rules.statements import (
    ACCEPT,
    DROP,
    IIFNAME,
    L4PROTO,
    RETURN,
    Match,
    NamedCounter,
    OneOf,
    Payload,
    Prefix,
    Value,
    concat,
    in_state,
    jump,
)
from agent.rules.values import interface_name, ip

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
LINK_LOCAL_4 = Prefix("224.0.0.0", 24)
LINK_LOCAL_6 = Prefix("fe80::", 10)
LINK_GROUPS_6 = Prefix("ff02::", 16)

NEIGHBOR_DISCOVERY = OneOf(
    ("nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert")
)
MULTICAST_LISTENERS = OneOf(
    ("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report")
)


def gate(pair: Pair) -> tuple[Object, ...]:
    """What is there in every role."""
    return (
        *own_sets(TABLE, pair),
        CounterObject(GATE_TABLE, "early"),
        CounterObject(GATE_TABLE, "backup"),
        Chain(GATE_TABLE, CLOSED),
        make_rule(GATE_TABLE, CLOSED, Match(IIFNAME, OneOf(_data_interfaces(pair)), "!="), RETURN),
        *_passing(pair),
        make_rule(GATE_TABLE, CLOSED, NamedCounter("early"), DROP, comment="backup: the gate is closed"),
    )


def own_sets(table: str, pair: Pair) -> tuple[Object, ...]:
    return (
        Set(table, "data", ("ifname",), _data_interfaces(pair)),
        Set(table, "own4", ("ifname", "ipv4_addr"), _own_addresses(pair, 4)),
        Set(table, "own6", ("ifname", "ipv6_addr"), _own_addresses(pair, 6)),
    )


def closed() -> tuple[Object, ...]:
    """The two chains with their rules: only expressions that every nft lists exactly as they were given."""
    return (*_CHAINS, *_RULES)


def flip(rules: RuleSet) -> Commands:
    """From either role."""
    # what is not there cannot be deleted, and adding what is there does nothing
    there = add(*_CHAINS)
    if rules is RuleSet.BACKUP:
        return (*there, *(flush_chain(GATE_TABLE, name) for name in ROLE_CHAINS), *add(*_RULES))
    return (*there, *(delete_chain(GATE_TABLE, name) for name in ROLE_CHAINS))


def no_forward() -> tuple[Object, ...]:
    """Nothing is forwarded. The same as systemd/boot.nft, which says why each line is there."""
    return (
        base_chain(GATE_TABLE, "lost", "forward", BEFORE_DEFRAG, policy="drop"),
        base_chain(GATE_TABLE, "lost-nat", "postrouting", SOURCE_NAT, kind="nat"),
        make_rule(GATE_TABLE, "lost", in_state("established"), DROP),
        make_rule(GATE_TABLE, "lost", DROP),
    )


def is_role_part(table: str, part: str) -> bool:
    """Whether what is of this part of a table is there or not as the role is."""
    return table == GATE_TABLE and part in _ROLE_PARTS


_ROLE_PARTS = frozenset(f"chain {name}" for name in ROLE_CHAINS)
_CHAINS = (
    base_chain(GATE_TABLE, GATE, "prerouting", BEFORE_DEFRAG),
    base_chain(GATE_TABLE, ROLE, "forward", BEFORE_POLICY),
)
_RULES = (
    make_rule(GATE_TABLE, GATE, jump(CLOSED)),
    make_rule(GATE_TABLE, ROLE, NamedCounter("backup"), DROP, comment="backup: nothing is forwarded"),
)


def _passing(pair: Pair) -> Iterator[Object]:
    """What passes a closed gate. The input chain still filters it; none of it can be forwarded by a backup.

    Management, the replies to the node's own questions and BFD go to the nodes' own addresses. Those count
    only on their own interface: a packet to the peer's address behind this node would otherwise get as far
    as routing, which answers a TTL of 1 before the forward hook sees it.
    """
    for version in (4, 6):
        if own := _own_addresses(pair, version):
            here = concat(IIFNAME, Payload(ip(version), "daddr"))
            yield make_rule(GATE_TABLE, CLOSED, Match(here, OneOf(own)), ACCEPT)
    yield from vrrp_rules(CLOSED)
    yield make_rule(
        GATE_TABLE, CLOSED, Match(Payload("ip", "daddr"), LINK_LOCAL_4), Match(L4PROTO, IGMP), ACCEPT
    )
    yield from neighbor_rules(GATE_TABLE, CLOSED)
    yield make_rule(GATE_TABLE, CLOSED, Match(Payload("ip6", "daddr"), LINK_LOCAL_6), ACCEPT)


def vrrp_rules(chain: str) -> tuple[Object, ...]:
    """VRRP by multicast; by unicast it goes to an own address."""
    return tuple(
        make_rule(
            GATE_TABLE,
            chain,
            Match(Payload(protocol, "daddr"), group),
            Match(L4PROTO, OneOf((AH, VRRP))),
            ACCEPT,
        )
        for protocol, group in (("ip", VRRP_GROUP_4), ("ip6", VRRP_GROUP_6))
    )


def neighbor_rules(table: str, chain: str) -> tuple[Object, ...]:
    icmpv6 = Payload("icmpv6", "type")
    return (
        make_rule(
            table, chain, Match(icmpv6, NEIGHBOR_DISCOVERY), Match(Payload("ip6", "hoplimit"), 255), ACCEPT
        ),
        make_rule(
            table,
            chain,
            Match(icmpv6, MULTICAST_LISTENERS),
            Match(Payload("ip6", "daddr"), LINK_GROUPS_6),
            ACCEPT,
        ),
    )


def _data_interfaces(pair: Pair) -> tuple[str, ...]:
    return tuple(interface_name(interface.name) for interface in pair.data_interfaces)


def _own_addresses(pair: Pair, version: int) -> tuple[Value, ...]:
    """The addresses of both nodes, so that the table is the same on both."""
    return tuple(
        concat(interface_name(interface.name), str(address.ip))
        for interface in pair.data_interfaces
        for _, addresses in interface.addresses
        for address in addresses
        if address.version == version
    )
