"""The policy between the zones: the forward hook, a chain per ordered pair of interfaces, and helpers."""

from collections.abc import Iterator

from agent.pair import (
    SELF_ZONE,
    Action,
    Interface,
    IPAddress,
    Pair,
    PortForward,
    PortRange,
    Protocol,
    Rule,
    Service,
)
from agent.rules.matching import matches, service_match
from agent.rules.nft import (
    ACCEPT,
    COUNTER,
    DROP,
    IIFNAME,
    OIFNAME,
    Command,
    Commands,
    Expr,
    add_base_chain,
    add_chain,
    add_counter,
    add_helper,
    add_rule,
    concat,
    in_state,
    interface_name,
    ip,
    jump,
    match,
    named_counter,
    one_of,
    payload,
    verdict_map,
)
from agent.rules.sources import check_of_new
from agent.rules.verdicts import has_refuse_chain, refusal, verdict, verdict_chains

INVALID = "invalid"
FILTER = 0

TCP_FLAGS: Expr = {"&": [payload("tcp", "flags"), ["fin", "syn", "rst", "ack"]]}
NOT_AN_OPENING = match(TCP_FLAGS, "syn", "!=")
ONCE_TRANSLATED: Expr = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
_ANY = (Service("any", Protocol.ANY),)


def forward(pair: Pair) -> Commands:
    sync = interface_name(pair.sync_interface.name)
    ways = dict(_ways(pair))
    dispatch = [(concat(one.name, other.name), jump(chain_name(one, other))) for one, other in ways.values()]
    return (
        *_helper_objects(pair),
        add_counter(INVALID),
        add_counter("refused"),
        add_base_chain("forward", "forward", FILTER, policy="drop"),
        add_chain(INVALID),
        *verdict_chains(pair),
        *(add_chain(chain_name(*way)) for way in ways.values()),
        add_rule(INVALID, named_counter(INVALID), DROP),
        # nearly every packet ends here: it is to meet nothing before
        add_rule("forward", in_state("established", "related"), ACCEPT, comment="known"),
        add_rule("forward", in_state("invalid"), jump(INVALID)),
        add_rule("forward", match(IIFNAME, sync), COUNTER, DROP, comment="the sync link is not a way"),
        add_rule("forward", match(OIFNAME, sync), COUNTER, DROP, comment="the sync link is not a way"),
        check_of_new("forward"),
        add_rule("forward", NOT_AN_OPENING, jump(INVALID), comment="TCP opens by SYN only"),
        *([add_rule("forward", verdict_map(concat(IIFNAME, OIFNAME), dispatch))] if dispatch else []),
        *_refusals(pair),
        add_rule("forward", named_counter("refused"), DROP),
        *(command for way in ways.values() for command in _pair_chain(pair, *way)),
    )


def chain_name(ingress: Interface, egress: Interface) -> str:
    """Cannot be read two ways and collides with no other chain: an interface name has no slash."""
    return f"from/{interface_name(ingress.name)}/to/{interface_name(egress.name)}"


def _ways(pair: Pair) -> Iterator[tuple[tuple[str, str], tuple[Interface, Interface]]]:
    """The ordered pairs of interfaces that anything is said about, by their names."""
    zones = [(rule.from_zone, rule.to_zone) for rule in pair.policy if rule.to_zone != SELF_ZONE]
    for one in pair.forwards:
        zones += [(from_zone, one.to_zone) for from_zone in zones_of(one)]
    for from_zone, to_zone in zones:
        for ingress in pair.in_zone(from_zone):
            for egress in pair.in_zone(to_zone):
                yield (ingress.name, egress.name), (ingress, egress)


def zones_of(one: PortForward) -> tuple[str, ...]:
    """The zones that a port forward may be asked from."""
    return (one.from_zone, one.to_zone) if one.hairpin else (one.from_zone,)


def _pair_chain(pair: Pair, ingress: Interface, egress: Interface) -> Iterator[Command]:
    chain = chain_name(ingress, egress)
    for rule in pair.policy:
        if (rule.from_zone, rule.to_zone) == (ingress.zone, egress.zone):
            yield from rules_of(pair, chain, rule)
    for one in pair.forwards:
        if ingress.zone in zones_of(one) and one.to_zone == egress.zone:
            yield from _forwarded(chain, ingress, one)
    line = f"{ingress.zone} to {egress.zone}: nothing else"
    yield add_rule(chain, COUNTER, refusal(pair.zone(ingress.zone)), comment=line)


def rules_of(pair: Pair, chain: str, rule: Rule) -> Iterator[Command]:
    """A rule of nft for each service, and where it has addresses for each IP version."""
    for service in rule.services:
        helper = _helper(service) if rule.to_zone != SELF_ZONE and rule.action is Action.ACCEPT else ()
        for found in matches(pair, service, rule.source, rule.destination):
            comment = f"{rule.label}: {service.name}"
            yield add_rule(chain, *found, *helper, COUNTER, verdict(rule), comment=comment)


def _forwarded(chain: str, ingress: Interface, one: PortForward) -> Iterator[Command]:
    for target in one.targets:
        for service in one.services or _ANY:
            if target.version in service.versions:
                line = f"{ingress.zone} to {one.to_zone}: {service.name} for {target}"
                found = to_target(one, service, target)
                yield add_rule(
                    chain, ONCE_TRANSLATED, *found, *_helper(service), COUNTER, ACCEPT, comment=line
                )


def to_target(one: PortForward, service: Service, target: IPAddress) -> tuple[Expr, ...]:
    """A packet of this port forward, as it is after its destination was translated."""
    if one.port:
        service = Service(service.name, service.protocol, (PortRange(one.port, one.port),))
    address = match(payload(ip(target.version), "daddr"), str(target))
    return (address, *service_match(service, target.version))


def _refusals(pair: Pair) -> Iterator[Command]:
    """For the ways that nothing is said about, from zones that are answered or logged."""
    for zone in pair.zones:
        names = [interface_name(interface.name) for interface in pair.in_zone(zone.name)]
        if names and has_refuse_chain(zone):
            arriving = match(IIFNAME, one_of(names))
            yield add_rule("forward", arriving, named_counter("refused"), refusal(zone))


def _helper(service: Service) -> tuple[Expr, ...]:
    """Set by the rule that lets the connection in: its first packet is not confirmed yet, and only the
    direction of the policy gets it. The connections it expects come in as related."""
    return ({"ct helper": _helper_name(service)},) if service.helper else ()


def _helper_objects(pair: Pair) -> list[Command]:
    rules = [rule.services for rule in pair.policy if rule.to_zone != SELF_ZONE]
    every = (*rules, *(one.services for one in pair.forwards))
    objects = {
        _helper_name(service): add_helper(_helper_name(service), service.helper, service.protocol.value)
        for services in every
        for service in services
        if service.helper
    }
    return list(objects.values())


def _helper_name(service: Service) -> str:
    return f"{service.helper}-{service.protocol.value}"
