# SPDX-License-Identifier: GPL-2.0-or-later
"""NAT. Source addresses are those that move with the role; a node's own address is never used.

The first entry of the file that is about a packet decides, on its way in as on its way out.
Packets of the firewall itself are not touched: they have no interface they came in by.
"""

from collections.abc import Iterator
from ipaddress import ip_network

from agent.model.pair import (
    Addresses,
    Interface,
    IPAddress,
    Pair,
    PortForward,
    Protocol,
    Service,
    SourceNat,
    Translation,
)
from agent.rules.forward import asked_at, translated_by
from agent.rules.gate import SOURCE_NAT
from agent.rules.matching import VERSIONS, matches
from agent.rules.objects import TABLE, Object, base_chain, make_rule
from agent.rules.statements import (
    ACCEPT,
    COUNTER,
    IIFNAME,
    OIFNAME,
    Match,
    Range,
    Statement,
    Translate,
    Value,
)
from agent.rules.values import from_networks, interface_name, ip, network_of

DESTINATION_NAT = -100
_ANY = (Service("any", Protocol.ANY),)


def nat(pair: Pair) -> tuple[Object, ...]:
    inward = [command for one in pair.translations for command in _inward(pair, one)]
    return (
        *((base_chain(TABLE, "dstnat", "prerouting", DESTINATION_NAT, kind="nat"),) if inward else ()),
        *(_managed(pair) if inward else ()),
        *inward,
        base_chain(TABLE, "srcnat", "postrouting", SOURCE_NAT, kind="nat"),
        *(command for one in pair.translations for command in _outward(pair, one)),
    )


def _inward(pair: Pair, one: PortForward | SourceNat) -> Iterator[Object]:
    return _port_forwards(pair, one) if isinstance(one, PortForward) else _outer_prefix(pair, one)


def _outward(pair: Pair, one: PortForward | SourceNat) -> Iterator[Object]:
    return _hairpins(pair, one) if isinstance(one, PortForward) else _source(pair, one)


def _managed(pair: Pair) -> Iterator[Object]:
    """Management always reaches the firewalls: no entry takes it from an address that is still theirs."""
    gone = pair.given_away(pair.translations)
    kept = tuple(ip_network(vip.ip) for _, vip in pair.vips() if vip.ip not in gone)
    sources = Addresses(pair.management.sources)
    for service in pair.management.services if kept else ():
        for found in matches(pair, service, sources, Addresses(kept), VERSIONS):
            yield make_rule(
                TABLE, "dstnat", *found, COUNTER, ACCEPT, comment=f"management: {service.name} stays here"
            )


def _source(pair: Pair, one: SourceNat) -> Iterator[Object]:
    for ingress in pair.in_zone(one.from_zone):
        for egress in pair.in_zone(one.to_zone):
            way = _way(ingress, egress)
            for version, becomes, words in _becomes(one, egress):
                for found in _matches(pair, one, version):
                    line = f"{one.from_zone} to {one.to_zone}: {words}"
                    yield make_rule(TABLE, "srcnat", *way, *found, COUNTER, becomes, comment=line)


def _way(ingress: Interface, egress: Interface) -> tuple[Match, Match]:
    return Match(IIFNAME, interface_name(ingress.name)), Match(OIFNAME, interface_name(egress.name))


def _matches(pair: Pair, one: SourceNat, version: int) -> Iterator[tuple[Match, ...]]:
    if one.prefixes:
        inside = from_networks(one.prefixes[:1], version)
        yield (inside,) if inside else ()
        return
    for service in one.services or _ANY:
        yield from matches(pair, service, one.source, one.destination, (version,))


def _becomes(one: SourceNat, egress: Interface) -> Iterator[tuple[int, Statement, str]]:
    """The IP versions of which something is translated, to what, and that in words."""
    if one.translation is Translation.KEEP:
        for version in VERSIONS:
            yield version, ACCEPT, "not translated"
    elif one.translation is Translation.VIP:
        for version, address in _virtual_addresses(egress):
            yield version, Translate("snat", ip(version), address), "from the virtual address"
    elif one.prefixes:
        outside = one.prefixes[1]
        becomes = Translate("snat", ip(outside.version), network_of(outside), None, ("netmap",))
        yield outside.version, becomes, f"from {outside}"
    for wanted in one.addresses:
        first, last, version = str(wanted.first), str(wanted.last), wanted.first.version
        if first == last:
            yield version, Translate("snat", ip(version), first), f"from {first}"
        else:
            pool = Range(first, last)
            yield version, Translate("snat", ip(version), pool, None, ("persistent",)), f"from {wanted}"


def _virtual_addresses(interface: Interface) -> list[tuple[int, Value]]:
    """The first virtual address of each IP version; a link-local one cannot be a source across a router."""
    first: dict[int, Value] = {}
    for vip in interface.vips:
        if not vip.ip.is_link_local:
            first.setdefault(vip.version, str(vip.ip))
    return list(first.items())


def _outer_prefix(pair: Pair, one: SourceNat) -> Iterator[Object]:
    """The way back in of a translated prefix, for connections that begin outside."""
    if one.prefixes is None:
        return
    inside, outside = one.prefixes
    asked = from_networks([outside], outside.version, "daddr")
    if asked is None:
        return
    becomes = Translate("dnat", ip(inside.version), network_of(inside), None, ("netmap",))
    for ingress in pair.in_zone(one.to_zone):
        arriving = Match(IIFNAME, interface_name(ingress.name))
        line = f"{one.to_zone} to {one.from_zone}: to {inside}"
        yield make_rule(TABLE, "dstnat", arriving, asked, COUNTER, becomes, comment=line)


def _port_forwards(pair: Pair, one: PortForward) -> Iterator[Object]:
    for zone in one.askers:
        for ingress in pair.in_zone(zone):
            for target in one.targets:
                yield from _port_forward(pair, one, ingress, target)


def _port_forward(pair: Pair, one: PortForward, ingress: Interface, target: IPAddress) -> Iterator[Object]:
    version = target.version
    asked = tuple(ip_network(each) for each in asked_at(pair, one, ingress.zone, version))
    if not asked:
        return
    arriving = Match(IIFNAME, interface_name(ingress.name))
    becomes = Translate("dnat", ip(version), str(target), one.port)
    for service in one.services or _ANY:
        line = f"{ingress.zone} to {one.to_zone}: {service.name} for {target}"
        for found in matches(pair, service, one.source, Addresses(asked), (version,)):
            yield make_rule(TABLE, "dstnat", arriving, *found, COUNTER, becomes, comment=line)


def _hairpins(pair: Pair, one: PortForward) -> Iterator[Object]:
    """A client in the server's own network must be answered through the firewall, so the server has to see
    the firewall's address."""
    for ingress in pair.in_zone(one.to_zone) if one.hairpin else ():
        for egress in pair.in_zone(one.to_zone):
            own = dict(_virtual_addresses(egress))
            for target in (each for each in one.targets if each.version in own):
                becomes = Translate("snat", ip(target.version), own[target.version])
                for service in one.services or _ANY:
                    line = f"{one.to_zone} to itself: {service.name} for {target}"
                    way = _way(ingress, egress)
                    for found in translated_by(pair, one, service, target, one.to_zone):
                        yield make_rule(TABLE, "srcnat", *way, *found, COUNTER, becomes, comment=line)
