# SPDX-License-Identifier: GPL-2.0-or-later
"""What packets an entry of the policy is about, as expressions; and the named sets."""

from collections.abc import Iterator

from agent.model.pair import Addresses, AddressSet, Pair, Protocol, Service
from agent.rules.nft_json import (
    L4PROTO,
    TABLE,
    Command,
    Expr,
    Json,
    add_set,
    elements,
    from_networks,
    intervals,
    ip,
    match,
    of_version,
    one_of,
    payload,
    ports,
)

VERSIONS = (4, 6)


def named_sets(pair: Pair) -> Iterator[Command]:
    """A set for each IP version that there may be something of."""
    for one in pair.sets:
        for version in VERSIONS:
            kind = f"ipv{version}_addr"
            found = elements(intervals(one.networks, version), version)
            if one.dynamic:
                yield add_set(
                    TABLE, set_name(one.name, version), kind, flags=["timeout"], timeout_s=one.timeout_s
                )
            elif found:
                yield add_set(TABLE, set_name(one.name, version), kind, found, flags=["interval"])


def set_name(name: str, version: int) -> str:
    """No set of ours has a slash in its name but these."""
    return f"{name}/{version}"


def matches(
    pair: Pair, service: Service, source: Addresses, destination: Addresses, versions: tuple[int, ...] = ()
) -> Iterator[tuple[Expr, ...]]:
    """The rules that together match `service` between these addresses. With `versions` each of them tells
    its IP version; without, only where it has to."""
    if source.everybody and destination.everybody and not versions and service.protocol is not Protocol.ICMP:
        yield service_match(service, service.versions[0])
        return
    for version in versions or VERSIONS:
        if version not in service.versions:
            continue
        for one in _ends(pair, source, version, "saddr"):
            for other in _ends(pair, destination, version, "daddr"):
                addresses = (*one, *other) or ((of_version(version),) if versions else ())
                yield (*addresses, *service_match(service, version))


def _ends(pair: Pair, addresses: Addresses, version: int, field: str) -> list[tuple[Expr, ...]]:
    """Alternatives; a single empty one matches everybody."""
    if addresses.everybody:
        return [()]
    networks = from_networks(addresses.networks, version, field)
    found: list[tuple[Expr, ...]] = [(networks,)] if networks else []
    for name in addresses.sets:
        if _has(pair, name, version):
            found.append((match(payload(ip(version), field), f"@{set_name(name, version)}"),))
    return found


def _has(pair: Pair, name: str, version: int) -> bool:
    one: AddressSet = next(each for each in pair.sets if each.name == name)
    return one.dynamic or any(network.version == version for network in one.networks)


def service_match(service: Service, version: int) -> tuple[Expr, ...]:
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
            return (match(L4PROTO, one_of(service.numbers)),)
    if service.ports:
        return (match_of(service.protocol.value, "dport", ports(service.ports)),)
    return (match(L4PROTO, service.protocol.value),)


def match_of(protocol: str, field: str, value: Json) -> Expr:
    return match(payload(protocol, field), value)
