# SPDX-License-Identifier: GPL-2.0-or-later
"""What the firewalls themselves take and send, the same in every role. Management comes first."""

from collections.abc import Iterator

from agent.errors import ConfigError, Problem
from agent.model.pair import SELF_ZONE, Interface, Pair, PortRange
from agent.rules.forward import FILTER, INVALID, NOT_AN_OPENING, rule_commands
from agent.rules.gate import IGMP, VRRP, neighbour_rules
from agent.rules.matching import VERSIONS, service_match
from agent.rules.nft_json import (
    ACCEPT,
    COUNTER,
    CT_STATE,
    DROP,
    IIFNAME,
    L4PROTO,
    NOTRACK,
    OIFNAME,
    TABLE,
    Command,
    Commands,
    Json,
    add_base_chain,
    add_chain,
    add_counter,
    add_rule,
    concat,
    from_networks,
    in_state,
    interface_name,
    ip,
    jump,
    match,
    named_counter,
    payload,
    ports,
    verdict_map,
)
from agent.rules.peer import own_replication, peer, sync_port, untracked_vrrp
from agent.rules.source_check import CHECK, RAW_IN, check, check_all_ipv6
from agent.rules.verdicts import has_refuse_chain, refusal

RAW = -300
# not `related`: errors are in by then, and what a helper expects is for those behind the firewall
_BY_STATE = verdict_map(CT_STATE, (("established", ACCEPT), ("invalid", jump(INVALID))))


def local(pair: Pair) -> Commands:
    """Raises ConfigError when the rules would lock management out."""
    return (
        *_always(TABLE, pair),
        add_rule(TABLE, "input", _BY_STATE),
        *_own_services(pair),
        add_rule(TABLE, "input", named_counter("input"), DROP),
        *_untracked(pair),
    )


def closed_input(table: str, pair: Pair) -> Commands:
    """What is left of that where there is no policy."""
    answers = add_rule(table, "input", in_state("established"), ACCEPT)
    return (*_always(table, pair), answers, add_rule(table, "input", named_counter("input"), DROP))


def _always(table: str, pair: Pair) -> Commands:
    """Whatever the policy says."""
    return (
        add_counter(table, "input"),
        add_base_chain(table, "input", "input", FILTER, policy="drop"),
        add_base_chain(table, "output", "output", FILTER),
        add_rule(table, "input", match(IIFNAME, "lo"), ACCEPT),
        *peer(table, pair),
        *own_replication(table, pair),
        check(table, "input", "invalid", "related", "new"),
        *_check_of_untracked(table, pair),
        *_management(table, pair),
        add_rule(table, "input", match(L4PROTO, IGMP), ACCEPT),
        *neighbour_rules(table, "input"),
        # errors first: one about an untracked connection is `invalid`
        *_icmp(table),
    )


def _management(table: str, pair: Pair) -> list[Command]:
    """Before connection tracking has a say, and not by SYN only: the first load under a live ssh connection,
    which nobody has tracked yet, must not cut that connection."""
    rules = [
        add_rule(table, "input", source, *wanted, COUNTER, ACCEPT, comment=f"management: {service.name}")
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


def _untracked_services(pair: Pair) -> Iterator[tuple[str, Json]]:
    """The protocols and ports of management that need no connection tracking."""
    ports_of: dict[str, list[PortRange]] = {}
    for service in pair.management.services:
        if service.ports:
            ports_of.setdefault(service.protocol.value, []).extend(service.ports)
    for protocol, ranges in ports_of.items():
        yield protocol, ports(ranges)


def _check_of_untracked(table: str, pair: Pair) -> Iterator[Command]:
    """Each packet, because none of them is the first of anything."""
    for protocol, wanted in _untracked_services(pair):
        asked = match(payload(protocol, "dport"), wanted)
        yield add_rule(table, "input", in_state("untracked"), match(IIFNAME, "@data"), asked, jump(CHECK))


def _untracked_management(pair: Pair) -> Iterator[Command]:
    """A conntrack table that is full must not lock anybody out. Both directions are recognised by the same
    addresses and ports, so that no half of a connection is tracked. Only to a node's own address on its own
    interface: what comes to a virtual one may be on its way to elsewhere."""
    ways = (
        (RAW_IN, "manage-in", "dport", IIFNAME, "daddr", "saddr"),
        ("raw-out", "manage-out", "sport", OIFNAME, "saddr", "daddr"),
    )
    services = list(_untracked_services(pair))
    for base, chain, port, interface, near, far in ways if services else ():
        yield add_chain(TABLE, chain)
        for protocol, wanted in services:
            yield add_rule(TABLE, base, match(payload(protocol, port), wanted), jump(chain))
        for version in VERSIONS:
            sources = from_networks(pair.management.sources, version, far)
            if sources is not None:
                own = match(concat(interface, payload(ip(version), near)), f"@own{version}")
                yield add_rule(TABLE, chain, own, sources, NOTRACK)


def _icmp(table: str) -> list[Command]:
    """Echo, and the errors that path MTU discovery lives on, also those that conntrack cannot relate."""
    v4 = ["destination-unreachable", "time-exceeded", "parameter-problem", "echo-request"]
    v6 = ["destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem", "echo-request"]
    return [
        add_rule(table, "input", match(payload("icmp", "type"), {"set": v4}), ACCEPT),
        add_rule(table, "input", match(payload("icmpv6", "type"), {"set": v6}), ACCEPT),
    ]


def _own_services(pair: Pair) -> Iterator[Command]:
    """The rules `to: self`, in a chain per interface, behind everything that a rule must not take away."""
    chains = {interface.name: _own_chain(pair, interface) for interface in pair.data_interfaces}
    chains = {name: commands for name, commands in chains.items() if commands}
    if chains:
        yield from (add_chain(TABLE, _own_chain_name(name)) for name in chains)
        yield add_rule(TABLE, "input", NOT_AN_OPENING, jump(INVALID), comment="TCP opens with SYN only")
        dispatch = [(name, jump(_own_chain_name(name))) for name in chains]
        yield add_rule(TABLE, "input", verdict_map(IIFNAME, dispatch))
        for commands in chains.values():
            yield from commands


def _own_chain_name(interface: str) -> str:
    return f"self/{interface_name(interface)}"


def _own_chain(pair: Pair, interface: Interface) -> list[Command]:
    chain, zone = _own_chain_name(interface.name), pair.zone(interface.zone)
    commands = [
        command
        for rule in pair.policy
        if (rule.from_zone, rule.to_zone) == (interface.zone, SELF_ZONE)
        for command in rule_commands(pair, chain, rule)
    ]
    if has_refuse_chain(zone):
        line = f"{zone.name} to self: nothing else"
        commands.append(add_rule(TABLE, chain, named_counter("input"), refusal(zone), comment=line))
    return commands


def _untracked(pair: Pair) -> list[Command]:
    """Replication and VRRP leave no states in the table that they keep alike; management needs none."""
    sync = interface_name(pair.sync_interface.name)
    return [
        add_base_chain(TABLE, RAW_IN, "prerouting", RAW),
        add_base_chain(TABLE, "raw-out", "output", RAW),
        # first what an ordinary packet fails fastest
        add_rule(TABLE, RAW_IN, sync_port(pair), match(IIFNAME, sync), NOTRACK),
        add_rule(TABLE, "raw-out", sync_port(pair), match(OIFNAME, sync), NOTRACK),
        *untracked_vrrp(RAW_IN),
        add_rule(TABLE, "raw-out", match(L4PROTO, VRRP), match(OIFNAME, "@data"), NOTRACK),
        *_untracked_management(pair),
        check_all_ipv6(),
    ]
