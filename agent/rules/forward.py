# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy between the zones: the forward hook, a chain per ordered pair of interfaces, and helpers."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

from agent.model.pair import (
    SELF_ZONE,
    SYNC_ZONE,
    Action,
    Addresses,
    Interface,
    IPAddress,
    Pair,
    PortForward,
    PortRange,
    Protocol,
    Rule,
    Service,
)
from agent.rules.matching import VERSIONS, matches, service_match
from agent.rules.objects import TABLE, Chain, CounterObject, HelperObject, Object, base_chain, make_rule
from agent.rules.source_check import check
from agent.rules.statements import (
    ACCEPT,
    COUNTER,
    DROP,
    IIFNAME,
    OIFNAME,
    ORIGINAL,
    RETURN,
    Bits,
    Ct,
    Helper,
    Masked,
    Match,
    NamedCounter,
    NamedSet,
    Payload,
    concat,
    in_state,
    jump,
    one_of,
    verdict_map,
)
from agent.rules.values import interface_name, ip, ports
from agent.rules.verdicts import has_refuse_chain, refusal, verdict, verdict_chains

INVALID = "invalid"
TO_A_NODE = "to-a-node"
FILTER = 0

TCP_FLAGS = Masked(Payload("tcp", "flags"), Bits(("fin", "syn", "rst", "ack")))
NOT_AN_OPENING = Match(TCP_FLAGS, "syn", "!=")
_ANY = (Service("any", Protocol.ANY),)


def forward(pair: Pair) -> tuple[Object, ...]:
    sync = one_of([interface_name(one.name) for one in pair.every_interface if one.zone == SYNC_ZONE])
    ways = dict(_ways(pair))
    dispatch = [(concat(one.name, other.name), jump(chain_name(one, other))) for one, other in ways.values()]
    return (
        *_helper_objects(pair),
        CounterObject(TABLE, INVALID),
        CounterObject(TABLE, "refused"),
        base_chain(TABLE, "forward", "forward", FILTER, policy="drop"),
        Chain(TABLE, INVALID),
        *verdict_chains(pair),
        *(Chain(TABLE, chain_name(*way)) for way in ways.values()),
        make_rule(TABLE, INVALID, NamedCounter(INVALID), DROP),
        # nearly every packet ends here: no other rule is to come before
        make_rule(TABLE, "forward", in_state("established"), ACCEPT, comment="known"),
        make_rule(TABLE, "forward", in_state("invalid"), jump(INVALID)),
        make_rule(
            TABLE, "forward", Match(IIFNAME, sync), COUNTER, DROP, comment="no forwarding over the sync link"
        ),
        make_rule(
            TABLE, "forward", Match(OIFNAME, sync), COUNTER, DROP, comment="no forwarding over the sync link"
        ),
        check(TABLE, "forward", "related", "new", "untracked"),
        make_rule(
            TABLE, "forward", in_state("related"), ACCEPT, comment="announced, or an error about a known one"
        ),
        make_rule(TABLE, "forward", NOT_AN_OPENING, jump(INVALID), comment="TCP opens with SYN only"),
        *_to_a_node(),
        *(
            [make_rule(TABLE, "forward", verdict_map(concat(IIFNAME, OIFNAME), dispatch))]
            if dispatch
            else []
        ),
        *_refusals(pair),
        make_rule(TABLE, "forward", NamedCounter("refused"), DROP),
        *(command for way in ways.values() for command in _pair_chain(pair, *way)),
    )


def _to_a_node() -> Iterator[Object]:
    """The other node decides about what is for itself, by where that comes from. Forwarded to it, and behind
    a translation of its source, it would come from a network that it was not sent from."""
    yield Chain(TABLE, TO_A_NODE)
    for version in VERSIONS:
        target = concat(OIFNAME, Payload(ip(version), "daddr"))
        yield make_rule(TABLE, "forward", Match(target, NamedSet(f"own{version}")), jump(TO_A_NODE))
        for ping in service_match(Service("ping", Protocol.ICMP), version):
            yield make_rule(TABLE, TO_A_NODE, ping, RETURN)
    yield make_rule(
        TABLE, TO_A_NODE, NamedCounter("refused"), DROP, comment="own addresses on their own link only"
    )


def chain_name(ingress: Interface, egress: Interface) -> str:
    """Cannot be read two ways and collides with no other chain: an interface name has no slash."""
    return f"from/{interface_name(ingress.name)}/to/{interface_name(egress.name)}"


def _ways(pair: Pair) -> Iterator[tuple[tuple[str, str], tuple[Interface, Interface]]]:
    """The ordered pairs of interfaces that anything is said about, by their names."""
    zones = [(rule.from_zone, rule.to_zone) for rule in pair.policy if rule.to_zone != SELF_ZONE]
    for one in pair.forwards:
        zones += [(from_zone, one.to_zone) for from_zone in one.askers]
    for from_zone, to_zone in zones:
        for ingress in pair.in_zone(from_zone):
            for egress in pair.in_zone(to_zone):
                yield (ingress.name, egress.name), (ingress, egress)


def _pair_chain(pair: Pair, ingress: Interface, egress: Interface) -> Iterator[Object]:
    chain = chain_name(ingress, egress)
    for rule in pair.policy:
        if (rule.from_zone, rule.to_zone) == (ingress.zone, egress.zone):
            yield from rule_commands(pair, chain, rule)
    for one in pair.forwards:
        if ingress.zone in one.askers and one.to_zone == egress.zone:
            yield from _forwarded(pair, chain, ingress, one)
    line = f"{ingress.zone} to {egress.zone}: nothing else"
    yield make_rule(TABLE, chain, COUNTER, refusal(pair.zone(ingress.zone)), comment=line)


def rule_commands(pair: Pair, chain: str, rule: Rule) -> Iterator[Object]:
    """A rule of nft for each service, and where it has addresses for each IP version."""
    for service in rule.services:
        helper = _helper(service) if rule.to_zone != SELF_ZONE and rule.action is Action.ACCEPT else ()
        for found in matches(pair, service, rule.source, rule.destination):
            comment = f"{rule.label}: {service.name}"
            yield make_rule(TABLE, chain, *found, *helper, COUNTER, verdict(rule), comment=comment)


def _forwarded(pair: Pair, chain: str, ingress: Interface, one: PortForward) -> Iterator[Object]:
    """What a forward has translated is allowed by it, and nothing else: not what another entry has led to
    the same server."""
    for target in one.targets:
        for service in one.services or _ANY:
            line = f"{ingress.zone} to {one.to_zone}: {service.name} for {target}"
            for found in translated_by(pair, one, service, target, ingress.zone):
                yield make_rule(TABLE, chain, *found, *_helper(service), COUNTER, ACCEPT, comment=line)


def translated_by(
    pair: Pair, one: PortForward, service: Service, target: IPAddress, zone: str
) -> Iterator[tuple[Match, ...]]:
    """Packets from `zone` behind the translation of this forward, recognized by what they were before it."""
    asked = asked_at(pair, one, zone, target.version)
    if not asked:
        return
    before = Match(Ct(f"{ip(target.version)} daddr", ORIGINAL), one_of([str(each) for each in asked]))
    after = Addresses((ip_network(target),))
    for old, new in _ports(pair, one, service, target):
        for found in matches(pair, new, one.source, after, (target.version,)):
            yield (before, *found, *([Match(Ct("proto-dst", ORIGINAL), ports([old]))] if old else []))


def asked_at(pair: Pair, one: PortForward, zone: str, version: int) -> tuple[IPAddress, ...]:
    """Where a forward is asked for from `zone`, but for what an earlier entry of the file translates."""
    earlier = [
        nat.prefixes[1]
        for nat in pair.nat
        if nat.prefixes and nat.to_zone == zone and nat.place.number < one.place.number
    ]
    return tuple(
        address
        for address in pair.asked(one)
        if address.version == version and not any(address in outside for outside in earlier)
    )


def _ports(
    pair: Pair, one: PortForward, service: Service, target: IPAddress
) -> Iterator[tuple[PortRange | None, Service]]:
    """The service as it is asked for at the server, with the ports it was asked for before. None: they are
    the same, and no rule leads others there."""
    if one.port:
        there = PortRange(one.port, one.port)
        yield from ((old, replace(service, ports=(there,))) for old in service.ports)
    elif service.ports and any(other.port for other in pair.forwards if target in other.targets):
        yield from ((each, replace(service, ports=(each,))) for each in service.ports)
    else:
        yield None, service


def _refusals(pair: Pair) -> Iterator[Object]:
    """For the ways that nothing is said about, from zones that are answered or logged."""
    for zone in pair.zones:
        names = [interface_name(interface.name) for interface in pair.in_zone(zone.name)]
        if names and has_refuse_chain(zone):
            arriving = Match(IIFNAME, one_of(names))
            yield make_rule(TABLE, "forward", arriving, NamedCounter("refused"), refusal(zone))


def _helper(service: Service) -> tuple[Helper, ...]:
    """Set by the rule that lets the connection in: its first packet is not confirmed yet, and only the
    direction of the policy gets it. The connections it expects come in as related."""
    return (Helper(_helper_name(service)),) if service.helper else ()


def _helper_objects(pair: Pair) -> list[Object]:
    rules = [rule.services for rule in pair.policy if rule.to_zone != SELF_ZONE]
    every = (*rules, *(one.services for one in pair.forwards))
    objects = {
        _helper_name(service): HelperObject(
            TABLE, _helper_name(service), service.helper, service.protocol.value
        )
        for services in every
        for service in services
        if service.helper
    }
    return list(objects.values())


def _helper_name(service: Service) -> str:
    return f"{service.helper}-{service.protocol.value}"
