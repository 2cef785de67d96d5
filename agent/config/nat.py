# SPDX-License-Identifier: GPL-2.0-or-later
"""NAT: what connections look as if they came from, and which ones are forwarded to a server.

Every address that packets are sent to must move with the role. So whatever is translated to is a virtual
address, or lies in no network of the interfaces: then a router sends it to a virtual address.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from agent.config.addresses import is_unfit, read_address, read_addresses, read_range, versions_of
from agent.config.policy import Words, check_versions, read_ways
from agent.config.reader import Spot
from agent.config.services import read_services
from agent.config.source_tree import Mapping as Tree
from agent.config.source_tree import Scalar, shown
from agent.model.pair import (
    ANY_ADDRESS,
    Addresses,
    AddressRange,
    Interface,
    IPAddress,
    IPNetwork,
    Place,
    PortForward,
    PortRange,
    Protocol,
    Service,
    SourceNat,
    Translation,
)

_DIES = "the node's own address dies with the node, and every connection with it"
_KINDS = ("source", "destination", "prefix")
_WORDS = {"vip": Translation.VIP, "keep": Translation.KEEP}
_LARGEST_POOL = 65_536


@dataclass(frozen=True, slots=True)
class Nat:
    sources: tuple[SourceNat, ...] = ()
    forwards: tuple[PortForward, ...] = ()


def read_nat(spots: Iterable[Spot], words: Words) -> Nat:
    sources: list[SourceNat] = []
    forwards: list[PortForward] = []
    whole: dict[tuple[str, str], str] = {}
    every = (item for spot in spots for item in spot.items())
    for number, item in enumerate(every):
        place = Place(number, item.path, item.node.line)
        kinds = [key for key, _ in item.entries() if key in _KINDS]
        if not isinstance(item.node, Tree):
            continue
        if len(kinds) > 1:
            item.refuse(f"{kinds[0]} and {kinds[1]} are in one entry; make two entries of it")
        elif kinds == ["destination"]:
            forwards += (replace(one, place=place) for one in _read_forward(item, words))
        elif kinds == ["prefix"]:
            sources += (replace(one, place=place) for one in _read_prefix(item, words))
        else:
            for one in _read_source(item, words):
                _check_reachable(item, one, whole)
                sources.append(replace(one, place=place))
    return Nat(tuple(sources), tuple(forwards))


def _check_reachable(item: Spot, nat: SourceNat, whole: dict[tuple[str, str], str]) -> None:
    way = (nat.from_zone, nat.to_zone)
    if way in whole:
        message = f"{nat.from_zone} to {nat.to_zone} is already in {whole[way]}, which takes everything"
        item.refuse(f"{message}; merge the two, or put this one before it")
    elif nat.source == nat.destination == ANY_ADDRESS and not nat.services:
        whole[way] = item.path


def _read_source(item: Spot, words: Words) -> Iterator[SourceNat]:
    fields = item.fields(("from", "to", "source"), ("match",))
    ways = tuple(read_ways(item, fields, words))
    source, destination, services = _read_match(fields.get("match"), words)
    translation, ranges = _read_translation(fields["source"]) if "source" in fields else (None, ())
    for from_zone, to_zone in ways:
        for one in ranges:
            _check_moves(fields["source"], one, words.in_zone(to_zone))
        if translation:
            yield SourceNat(from_zone, to_zone, translation, ranges, None, source, destination, services)


def _read_match(spot: Spot | None, words: Words) -> tuple[Addresses, Addresses, tuple[Service, ...]]:
    fields = spot.fields((), ("source", "destination", "services")) if spot else {}
    if spot and not spot.entries():
        spot.refuse("is empty; write a source, a destination or services, or leave match out")
    source = read_addresses(fields.get("source"), words.sets)
    destination = read_addresses(fields.get("destination"), words.sets)
    services = read_services(fields["services"], words.services) if "services" in fields else ()
    if spot:
        versions = versions_of(source, words.sets) & versions_of(destination, words.sets)
        check_versions(spot, services, versions)
    return source, destination, services


def _read_translation(spot: Spot) -> tuple[Translation | None, tuple[AddressRange, ...]]:
    if isinstance(spot.node, Scalar) and spot.node.text in _WORDS:
        return _WORDS[spot.node.text], ()
    found: list[AddressRange] = []
    for item in spot.one_or_more():
        word = item.text()
        if word == "masquerade":
            item.refuse(f"masquerade does not survive a failover: {_DIES}; write vip")
        elif word is not None and not any(one in word for one in ".:"):
            item.refuse(f"unknown word {shown(word)}; write vip, keep or an address")
        elif word is not None and (one := read_range(item)):
            if int(one.last) - int(one.first) >= _LARGEST_POOL:
                item.refuse(f"{one} is a very large pool; write at most {_LARGEST_POOL} addresses")
            elif is_unfit(one.first) or is_unfit(one.last):
                item.refuse(f"{one} is not an address that a connection can come from; write another one")
            elif any(other.first.version == one.first.version for other in found):
                item.refuse(f"a second one of IPv{one.first.version}; write a range, or one of each version")
            else:
                found.append(one)
    return (Translation.ADDRESS if found else None), tuple(found)


def _check_moves(spot: Spot, wanted: AddressRange, interfaces: Iterable[Interface]) -> None:
    """Answers to `wanted` must find the node that is primary."""
    for interface in interfaces:
        for _, addresses in interface.addresses:
            for own in addresses:
                if own.version == wanted.first.version and _holds(wanted, own.ip):
                    spot.refuse(
                        f"{own.ip} is a node's own address on {interface.name}: {_DIES}; write a vip"
                    )
                    return
        for network in interface.networks:
            if _outside_vips(wanted, interface, network):
                message = f"{wanted} lies in {network} of {interface.name}, where no node answers for it"
                spot.refuse(f"{message}; add it to the vip of {interface.name}")
                return


def _holds(wanted: AddressRange, address: IPAddress) -> bool:
    return int(wanted.first) <= int(address) <= int(wanted.last)


def _outside_vips(wanted: AddressRange, interface: Interface, network: IPNetwork) -> bool:
    if network.version != wanted.first.version:
        return False
    first = max(int(wanted.first), int(network[0]))
    last = min(int(wanted.last), int(network[-1]))
    held = sum(first <= int(vip.ip) <= last for vip in interface.vips if vip.version == network.version)
    return held < last - first + 1


def _read_prefix(item: Spot, words: Words) -> Iterator[SourceNat]:
    fields = item.fields(("from", "to", "prefix"))
    ways = tuple(read_ways(item, fields, words))
    parts = fields["prefix"].fields(("inside", "outside")) if "prefix" in fields else {}
    found = [parts[key].network() for key in ("inside", "outside") if key in parts]
    if len(found) != 2 or found[0] is None or found[1] is None:
        return
    inside, outside = found[0], found[1]
    if inside.version != outside.version or inside.prefixlen != outside.prefixlen:
        fields["prefix"].refuse(f"{inside} and {outside} differ in length; both must be equally large")
    elif inside.prefixlen == 0 or inside.overlaps(outside):
        fields["prefix"].refuse(f"{inside} and {outside} overlap; write two networks")
    else:
        for from_zone, to_zone in ways:
            _check_moves(parts["outside"], AddressRange(outside[0], outside[-1]), words.interfaces)
            yield SourceNat(from_zone, to_zone, Translation.PREFIX, (), (inside, outside))


def _read_forward(item: Spot, words: Words) -> Iterator[PortForward]:
    fields = item.fields(("from", "to", "destination"), ("services", "address", "port", "match", "hairpin"))
    ways = tuple(read_ways(item, fields, words))
    services = read_services(fields["services"], words.services) if "services" in fields else ()
    source = _read_source_of_forward(fields.get("match"), words)
    addresses = _read_asked(fields.get("address"))
    targets = tuple(_read_targets(fields["destination"])) if "destination" in fields else ()
    port = fields["port"].integer(1, 65535) if "port" in fields else None
    hairpin = fields["hairpin"].boolean() if "hairpin" in fields else None
    _check_forward(item, fields, services, addresses)
    versions = {target.version for target in targets}
    if addresses and targets and not versions.intersection(one.version for one in addresses):
        item.refuse("no packet matches: address and destination share no IP version; look at both")
    elif targets:
        check_versions(item, services, versions_of(source, words.sets) & versions)
    for from_zone, to_zone in ways:
        for one in addresses:
            _check_moves(fields["address"], AddressRange(one, one), words.interfaces)
        if targets:
            yield PortForward(from_zone, to_zone, services, targets, addresses, port, source, bool(hairpin))


def _read_source_of_forward(spot: Spot | None, words: Words) -> Addresses:
    fields = spot.fields(("source",)) if spot else {}
    return read_addresses(fields.get("source"), words.sets)


def _read_asked(spot: Spot | None) -> tuple[IPAddress, ...]:
    if spot is None or (isinstance(spot.node, Scalar) and spot.node.text == "vip"):
        return ()
    return tuple(address for item in spot.one_or_more() if (address := _read_host(item)))


def _read_host(item: Spot) -> IPAddress | None:
    address = read_address(item)
    if address and is_unfit(address):
        item.refuse(f"{address} is not an address that a host can have; write another one")
        return None
    return address


def _read_targets(spot: Spot) -> Iterator[IPAddress]:
    seen: set[int] = set()
    for item in spot.one_or_more():
        target = _read_host(item)
        if target and target.version in seen:
            item.refuse(f"a second server of IPv{target.version}; one entry leads to one server")
        elif target:
            seen.add(target.version)
            yield target


def _check_forward(
    item: Spot, fields: Mapping[str, Spot], services: tuple[Service, ...], addresses: tuple[IPAddress, ...]
) -> None:
    if "services" not in fields and not addresses:
        item.refuse("services is missing; a virtual address must not be forwarded as a whole")
    if not addresses and any(one.protocol in (Protocol.ANY, Protocol.NUMBER) for one in services):
        item.refuse(
            "names whole protocols, VRRP may be among them; name services, or an address of their own"
        )
    if "port" in fields and any(not one.ports for one in services):
        fields["port"].refuse("is for services with ports only; remove it")
    if "port" in fields and (many := _many_to_one(services)):
        fields["port"].refuse(
            f"is one port, and {many} asks for more; remove port to keep them, or write an entry for each"
        )
    if "port" in fields and "services" not in fields:
        fields["port"].refuse("needs services; name the one that is asked for")


def _many_to_one(services: Iterable[Service]) -> str | None:
    """The service by which more than one port of a protocol is asked for."""
    seen: dict[Protocol, PortRange] = {}
    for service in services:
        for each in service.ports:
            if each.first != each.last or seen.setdefault(service.protocol, each) != each:
                return service.name
    return None
