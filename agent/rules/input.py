# SPDX-License-Identifier: GPL-2.0-or-later
"""What the firewalls themselves take and send, the same in every role. Management comes first."""

from collections.abc import Iterator, Sequence

from agent.errors import ConfigError, Problem
from agent.model.pair import SELF_ZONE, Interface, Pair, PortRange
from agent.rules.channel import channel, untracked_channel
from agent.rules.forward import FILTER, INVALID, NOT_AN_OPENING, rule_commands
from agent.rules.gate import IGMP, VRRP, neighbor_rules
from agent.rules.matching import VERSIONS, service_match
from agent.rules.objects import TABLE, Chain, CounterObject, Object, base_chain, make_rule
from agent.rules.peer import own_replication, peer, sync_port, untracked_tunnels, untracked_vrrp
from agent.rules.source_check import CHECK, RAW_IN, check, check_all_ipv6
from agent.rules.statements import (
    ACCEPT,
    COUNTER,
    CT_STATE,
    DROP,
    IIFNAME,
    L4PROTO,
    NOTRACK,
    OIFNAME,
    Match,
    NamedCounter,
    NamedSet,
    OneOf,
    Payload,
    Value,
    concat,
    in_state,
    jump,
    one_of,
    verdict_map,
)
from agent.rules.values import from_networks, interface_name, ip, ports
from agent.rules.verdicts import has_refuse_chain, refusal

RAW = -300
# not `related`: errors are in by then, and what a helper expects is for those behind the firewall
_BY_STATE = verdict_map(CT_STATE, (("established", ACCEPT), ("invalid", jump(INVALID))))


def local(pair: Pair) -> tuple[Object, ...]:
    """Raises ConfigError when the rules would lock management out."""
    return (
        *_always(TABLE, pair),
        make_rule(TABLE, "input", _BY_STATE),
        *_own_services(pair),
        make_rule(TABLE, "input", NamedCounter("input"), DROP),
        *_untracked(pair),
    )


def closed_input(table: str, pair: Pair) -> tuple[Object, ...]:
    """What is left of that where there is no policy."""
    answers = make_rule(table, "input", in_state("established"), ACCEPT)
    return (*_always(table, pair), answers, make_rule(table, "input", NamedCounter("input"), DROP))


def _always(table: str, pair: Pair) -> tuple[Object, ...]:
    """For every policy."""
    return (
        CounterObject(table, "input"),
        base_chain(table, "input", "input", FILTER, policy="drop"),
        base_chain(table, "output", "output", FILTER),
        make_rule(table, "input", Match(IIFNAME, "lo"), ACCEPT),
        *peer(table, pair),
        *own_replication(table, pair),
        *channel(table, pair),
        check(table, "input", "invalid", "related", "new"),
        *_check_of_untracked(table, pair),
        *_management(table, pair),
        make_rule(table, "input", Match(L4PROTO, IGMP), ACCEPT),
        *neighbor_rules(table, "input"),
        # errors first: one about an untracked connection is `invalid`
        *_icmp(table),
    )


def _management(table: str, pair: Pair) -> Sequence[Object]:
    """Before connection tracking has a say, and not by SYN only: the first load under a live ssh connection,
    which neither node has tracked yet, must not cut that connection."""
    rules = [
        make_rule(table, "input", source, *wanted, COUNTER, ACCEPT, comment=f"management: {service.name}")
        for service in pair.management.services
        for version in VERSIONS
        if (source := from_networks(pair.management.sources, version)) is not None
        and version in service.versions
        for wanted in (service_match(service, version),)
    ]
    if not rules:
        message = "no rule would let anyone manage the firewalls; name at least one source and one service"
        raise ConfigError((Problem("management", message),))
    return rules


def _untracked_services(pair: Pair) -> Iterator[tuple[str, Value]]:
    """The protocols and ports of management that need no connection tracking."""
    ports_of: dict[str, list[PortRange]] = {}
    for service in pair.management.services:
        if service.ports:
            ports_of.setdefault(service.protocol.value, []).extend(service.ports)
    for protocol, ranges in ports_of.items():
        yield protocol, ports(ranges)


def _check_of_untracked(table: str, pair: Pair) -> Iterator[Object]:
    """Each packet, because none of them is the first of anything."""
    for protocol, wanted in _untracked_services(pair):
        asked = Match(Payload(protocol, "dport"), wanted)
        yield make_rule(
            table, "input", in_state("untracked"), Match(IIFNAME, NamedSet("data")), asked, jump(CHECK)
        )


def _untracked_management(pair: Pair) -> Iterator[Object]:
    """A full conntrack table must not lock administrators out. Both directions are recognized by the same
    addresses and ports, so that no half of a connection is tracked. Only to a node's own address on its own
    interface: what comes to a virtual one may be on its way to elsewhere."""
    ways = (
        (RAW_IN, "manage-in", "dport", IIFNAME, "daddr", "saddr"),
        ("raw-out", "manage-out", "sport", OIFNAME, "saddr", "daddr"),
    )
    services = list(_untracked_services(pair))
    for base, chain, port, interface, near, far in ways if services else ():
        yield Chain(TABLE, chain)
        for protocol, wanted in services:
            yield make_rule(TABLE, base, Match(Payload(protocol, port), wanted), jump(chain))
        for version in VERSIONS:
            sources = from_networks(pair.management.sources, version, far)
            if sources is not None:
                own = Match(concat(interface, Payload(ip(version), near)), NamedSet(f"own{version}"))
                yield make_rule(TABLE, chain, own, sources, NOTRACK)


def _icmp(table: str) -> list[Object]:
    """Echo, and the errors that path MTU discovery lives on, also those that conntrack cannot relate."""
    v4 = ("destination-unreachable", "time-exceeded", "parameter-problem", "echo-request")
    v6 = ("destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem", "echo-request")
    return [
        make_rule(table, "input", Match(Payload("icmp", "type"), OneOf(v4)), ACCEPT),
        make_rule(table, "input", Match(Payload("icmpv6", "type"), OneOf(v6)), ACCEPT),
    ]


def _own_services(pair: Pair) -> Iterator[Object]:
    """The rules `to: self`, in a chain per interface, behind everything that a rule must not take away."""
    chains = {interface.name: _own_chain(pair, interface) for interface in pair.data_interfaces}
    chains = {name: commands for name, commands in chains.items() if commands}
    if chains:
        yield from (Chain(TABLE, _own_chain_name(name)) for name in chains)
        yield make_rule(TABLE, "input", NOT_AN_OPENING, jump(INVALID), comment="TCP opens with SYN only")
        dispatch = [(name, jump(_own_chain_name(name))) for name in chains]
        yield make_rule(TABLE, "input", verdict_map(IIFNAME, dispatch))
        for commands in chains.values():
            yield from commands


def _own_chain_name(interface: str) -> str:
    return f"self/{interface_name(interface)}"


def _own_chain(pair: Pair, interface: Interface) -> list[Object]:
    chain, zone = _own_chain_name(interface.name), pair.zone(interface.zone)
    commands = [
        command
        for rule in pair.policy
        if (rule.from_zone, rule.to_zone) == (interface.zone, SELF_ZONE)
        for command in rule_commands(pair, chain, rule)
    ]
    if has_refuse_chain(zone):
        line = f"{zone.name} to self: nothing else"
        commands.append(make_rule(TABLE, chain, NamedCounter("input"), refusal(zone), comment=line))
    return commands


def _untracked(pair: Pair) -> list[Object]:
    """Replication and VRRP leave no states in the table that they keep alike; management needs none."""
    sync = one_of([interface_name(one.name) for one in pair.replication_links])
    return [
        base_chain(TABLE, RAW_IN, "prerouting", RAW),
        base_chain(TABLE, "raw-out", "output", RAW),
        # first what an ordinary packet fails fastest
        make_rule(TABLE, RAW_IN, sync_port(pair), Match(IIFNAME, sync), NOTRACK),
        make_rule(TABLE, "raw-out", sync_port(pair), Match(OIFNAME, sync), NOTRACK),
        *untracked_tunnels(pair),
        *untracked_vrrp(RAW_IN),
        make_rule(TABLE, "raw-out", Match(L4PROTO, VRRP), Match(OIFNAME, NamedSet("data")), NOTRACK),
        *untracked_channel(pair),
        *_untracked_management(pair),
        check_all_ipv6(),
    ]
