# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses, networks, ranges and named sets of them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network, summarize_address_range

from agent.config.files import Documents, document_of
from agent.config.reader import WORD, Problems, Spot, suggestion
from agent.config.source_tree import Mapping as Tree
from agent.config.source_tree import Scalar, shown
from agent.errors import Problem
from agent.model.pair import ANY_ADDRESS, Addresses, AddressRange, AddressSet, IPAddress, IPNetwork

Sets = Mapping[str, AddressSet]

_RANGE = re.compile(r"([0-9A-Fa-f:.]{2,45})-([0-9A-Fa-f:.]{2,45})", re.ASCII)
_LONGEST_S = 30 * 86_400
_MAX_PROBLEMS = 10


def read_sets(spots: Iterable[Spot], named: Documents) -> Sets:
    """The sets defined at `spots`. One that cannot be read is there all the same: its name is known."""
    known: dict[str, AddressSet] = {}
    for spot in spots:
        for name, below in spot.entries():
            if not WORD[0].fullmatch(name):
                below.refuse(f"{shown(name)} is not {WORD[1]}")
            elif name in known:
                below.refuse(f"{name} is already defined in another file; choose another name")
            else:
                known[name] = _read_set(name, below, named)
    return known


def _read_set(name: str, spot: Spot, named: Documents) -> AddressSet:
    if not isinstance(spot.node, Tree):
        return AddressSet(name, tuple(_networks_at(spot)))
    fields = spot.fields((), ("file", "dynamic", "timeout"))
    dynamic = fields["dynamic"].boolean() if "dynamic" in fields else None
    timeout_ms = (
        fields["timeout"].duration_ms(1000, _LONGEST_S * 1000, step=1000) if "timeout" in fields else None
    )
    networks = tuple(_networks_of_file(fields["file"], named)) if "file" in fields else ()
    if "file" in fields and dynamic:
        spot.refuse("a dynamic set begins empty; put what is in the file into a set of its own")
    elif "timeout" in fields and not dynamic:
        spot.refuse("timeout is for dynamic sets; write dynamic: true, or remove it")
    elif "file" not in fields and not dynamic and len(spot.entries()) == len(fields):
        spot.refuse("has no addresses; write a list of them, a file, or dynamic: true")
    return AddressSet(name, networks, bool(dynamic), timeout_ms // 1000 if timeout_ms else None)


def _networks_at(spot: Spot) -> Iterator[IPNetwork]:
    for item in spot.one_or_more():
        yield from read_networks(item)


def _networks_of_file(spot: Spot, named: Documents) -> Iterator[IPNetwork]:
    name = spot.text()
    one = document_of(spot, name, named) if name is not None else None
    wrong = 0
    for number, line in enumerate((one.text if one else "").split("\n"), start=1):
        for word in line.partition("#")[0].split():
            try:
                yield _lone_address(word)
                continue
            except ValueError:
                below = Problems()
            yield from read_networks(Spot(Scalar(word, True, number), name or "", below))
            for _, problem in below.found if wrong < _MAX_PROBLEMS else ():
                message = f"{name}: {problem.message} (line {number} of that file)"
                spot.problems.note(spot.node.line, Problem(spot.path, message))
            wrong += len(below.found)


def _lone_address(word: str) -> IPNetwork:
    """ValueError for anything but an IPv4 address: a list may have a hundred thousand of these."""
    return IPv4Network((int(IPv4Address(word)), 32))


def read_networks(item: Spot) -> tuple[IPNetwork, ...]:
    """An address, a network, or a range of addresses."""
    text = item.text()
    if text is None:
        return ()
    if not _RANGE.fullmatch(text):
        network = item.network()
        return (network,) if network else ()
    found = read_range(item)
    if not found:
        return ()
    return tuple(summarize_address_range(found.first, found.last))


def read_range(item: Spot) -> AddressRange | None:
    """`10.0.0.1-10.0.0.7`, a whole network, or a single address."""
    text = item.text()
    if text is None:
        return None
    parts = _RANGE.fullmatch(text)
    if not parts:
        network = item.network()
        return AddressRange(network[0], network[-1]) if network else None
    try:
        first, last = ip_address(parts[1]), ip_address(parts[2])
    except ValueError:
        item.refuse(f"{shown(text)} is not a range; write it as in 192.168.0.10-192.168.0.20")
        return None
    if first.version != last.version or int(first) > int(last):
        item.refuse(f"{text} is not a range; write the lower address first, both of one IP version")
        return None
    return AddressRange(first, last)


def read_address(item: Spot) -> IPAddress | None:
    """One address without a network."""
    found = read_range(item)
    if found and found.first != found.last:
        item.refuse(f"{found} is more than one address; write one")
        return None
    return found.first if found else None


def read_addresses(spot: Spot | None, sets: Sets) -> Addresses:
    """Networks, ranges and names of sets, one or a list of them. No spot means every address."""
    networks: list[IPNetwork] = []
    names: list[str] = []
    for item in spot.one_or_more() if spot else ():
        word = item.text()
        if word is not None and WORD[0].fullmatch(word):
            if word in sets:
                names.append(word)
            else:
                known = suggestion(word, sets) if sets else "; define it under sets:"
                item.refuse(f"no set is named {shown(word)}{known}, or write an address")
        elif word is not None:
            networks += read_networks(item)
    return Addresses(tuple(dict.fromkeys(networks)), tuple(dict.fromkeys(names)))


def versions_of(addresses: Addresses, sets: Sets) -> frozenset[int]:
    """The IP versions of which `addresses` may match something."""
    if addresses == ANY_ADDRESS:
        return frozenset((4, 6))
    named = [sets[name] for name in addresses.sets]
    if any(one.dynamic for one in named):
        return frozenset((4, 6))
    every = (*addresses.networks, *(network for one in named for network in one.networks))
    return frozenset(network.version for network in every)


def is_unfit(address: IPAddress) -> bool:
    """Whether no host across a router can have it."""
    return (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or (isinstance(address, IPv4Address) and address in ip_network("240.0.0.0/4"))
        or (isinstance(address, IPv4Address) and address in ip_network("0.0.0.0/8"))
        or (isinstance(address, IPv6Address) and address.ipv4_mapped is not None)
    )
