# SPDX-License-Identifier: GPL-2.0-or-later
"""What packets an entry of the policy is about, as expressions; and the named sets."""

from collections.abc import Iterator

from agent.model.pair import Addresses, AddressSet, Pair, Protocol, Service
from agent.rules.objects import TABLE, Object, Set
from agent.rules.statements import L4PROTO, Match, NamedSet, Payload, Value, one_of
from agent.rules.values import elements, from_networks, intervals, ip, of_version, ports

VERSIONS = (4, 6)


def named_sets(pair: Pair) -> Iterator[Object]:
    """A set for each IP version that there may be something of."""
    for one in pair.sets:
        for version in VERSIONS:
            kind = (f"ipv{version}_addr",)
            found = tuple(elements(intervals(one.networks, version), version))
            if one.dynamic:
                yield Set(
                    TABLE, set_name(one.name, version), kind, flags=("timeout",), timeout_s=one.timeout_s
                )
            elif found:
                yield Set(TABLE, set_name(one.name, version), kind, found, flags=("interval",))


def set_name(name: str, version: int) -> str:
    """No set of ours has a slash in its name but these."""
    return f"{name}/{version}"


def matches(
    pair: Pair, service: Service, source: Addresses, destination: Addresses, versions: tuple[int, ...] = ()
) -> Iterator[tuple[Match, ...]]:
    """The rules that together match `service` between these addresses. With `versions` each of them tells
    its IP version; without, only where it has to."""
    if source.is_any and destination.is_any and not versions and service.protocol is not Protocol.ICMP:
        yield service_match(service, service.versions[0])
        return
    for version in versions or VERSIONS:
        if version not in service.versions:
            continue
        for one in _ends(pair, source, version, "saddr"):
            for other in _ends(pair, destination, version, "daddr"):
                addresses = (*one, *other) or ((of_version(version),) if versions else ())
                yield (*addresses, *service_match(service, version))


def _ends(pair: Pair, addresses: Addresses, version: int, field: str) -> list[tuple[Match, ...]]:
    """Alternatives; a single empty one matches every address."""
    if addresses.is_any:
        return [()]
    networks = from_networks(addresses.networks, version, field)
    found: list[tuple[Match, ...]] = [(networks,)] if networks else []
    for name in addresses.sets:
        if _has(pair, name, version):
            found.append((Match(Payload(ip(version), field), NamedSet(set_name(name, version))),))
    return found


def _has(pair: Pair, name: str, version: int) -> bool:
    one: AddressSet = next(each for each in pair.sets if each.name == name)
    return one.dynamic or any(network.version == version for network in one.networks)


def service_match(service: Service, version: int) -> tuple[Match, ...]:
    """ICMP as a service is the echo request; errors come in as related."""
    match service.protocol:
        case Protocol.ANY:
            return ()
        case Protocol.ICMP:
            return (match_of("icmp" if version == 4 else "icmpv6", "type", "echo-request"),)
        case Protocol.ICMPV4 | Protocol.ICMPV6:
            protocol = "icmp" if service.protocol is Protocol.ICMPV4 else "icmpv6"
            return (match_of(protocol, "type", one_of(service.numbers)),)
        case Protocol.NUMBER:
            return (Match(L4PROTO, one_of(service.numbers)),)
    if service.ports:
        return (match_of(service.protocol.value, "dport", ports(service.ports)),)
    return (Match(L4PROTO, service.protocol.value),)


def match_of(protocol: str, field: str, value: Value) -> Match:
    return Match(Payload(protocol, field), value)
