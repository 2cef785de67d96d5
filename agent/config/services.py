# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of services: names of the field, own definitions, or protocols with ports; and those definitions."""

import re
from collections.abc import Iterable, Iterator, Mapping

from agent.config.reader import WORD, Spot, suggestion
from agent.config.source_tree import Mapping as Tree
from agent.config.source_tree import Scalar, Sequence, shown
from agent.model.pair import PortRange, Protocol, Service
from agent.model.services import HELPERS, ICMP_TYPES, PROTOCOLS, SERVICES

Services = Mapping[str, tuple[Service, ...]]

_RANGE = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", re.ASCII)
_WITH_PORTS = (Protocol.TCP.value, Protocol.UDP.value, Protocol.SCTP.value)
_ICMP = {"icmp": Protocol.ICMPV4, "icmpv6": Protocol.ICMPV6}
_KEYS = (*_WITH_PORTS, *_ICMP, "protocol", "helper")
_MAX_NAME = 60
_EXAMPLE = "as in 443, 8000-8100 or [80, 443]"


def read_own_services(spots: Iterable[Spot]) -> Services:
    """All services that can be called by name: the built-in ones, and those defined at `spots`."""
    known: dict[str, tuple[Service, ...]] = dict(SERVICES)
    for spot in spots:
        for name, below in spot.entries():
            if not WORD[0].fullmatch(name):
                below.refuse(f"{shown(name)} is not {WORD[1]}")
            elif name in SERVICES:
                below.refuse(f"{name} is a built-in service; choose another name")
            elif name in known:
                below.refuse(f"{name} is already defined in another file; choose another name")
            else:
                known[name] = _named(name, below, known)
    return known


def _named(name: str, spot: Spot, known: Services) -> tuple[Service, ...]:
    items = spot.items() if isinstance(spot.node, Sequence) else (spot,)
    if not items:
        spot.refuse(f"names no service; write a protocol and its ports, {_EXAMPLE}")
    found = (service for item in items for service in _read_service(item, known))
    renamed = (
        Service(name, one.protocol, one.ports, one.helper, one.numbers) if one.name not in known else one
        for one in found
    )
    return tuple(dict.fromkeys(renamed))


def read_services(spot: Spot, known: Services) -> tuple[Service, ...]:
    """The services at `spot`, each once. An empty list is a problem."""
    found: list[Service] = []
    items = spot.items()
    for item in items:
        found += _read_service(item, known)
    if not items and isinstance(spot.node, Sequence):
        spot.refuse("names no service; write one, or remove the whole entry")
    return tuple(dict.fromkeys(found))


def _read_service(item: Spot, known: Services) -> tuple[Service, ...]:
    if isinstance(item.node, Tree):
        return tuple(_written_out(item))
    name = item.text()
    services = known.get(name) if name is not None else ()
    if services is None and name is not None:
        item.refuse(
            f"no service is named {shown(name)}{suggestion(name, known)}; or a port, as in {{tcp: 8080}}"
        )
    return services or ()


def _written_out(item: Spot) -> Iterator[Service]:
    fields = item.fields((), _KEYS)
    if not any(key in fields for key in _KEYS if key != "helper"):
        unknown = isinstance(item.node, Tree) and len(item.node.entries) > len(fields)
        if not unknown:
            item.refuse(f"names no service; write a protocol and its ports, {_EXAMPLE}")
        return
    helper = _read_helper(fields)
    for key, spot in fields.items():
        if key in _WITH_PORTS:
            ports = _read_ports(spot)
            if ports:
                yield Service(_short(key, ports), Protocol(key), ports, helper)
        elif key in _ICMP:
            numbers = _read_numbers(spot, ICMP_TYPES[_ICMP[key]], f"a request of {key}")
            if numbers:
                yield Service(_short(key, numbers), _ICMP[key], numbers=numbers)
        elif key == "protocol":
            numbers = _read_numbers(spot, PROTOCOLS, "an IP protocol", 255)
            if numbers:
                yield Service(_short(key, numbers), Protocol.NUMBER, numbers=numbers)


def _read_helper(fields: Mapping[str, Spot]) -> str | None:
    if "helper" not in fields:
        return None
    spot = fields["helper"]
    name = spot.text()
    others = [key for key in fields if key != "helper"]
    if name is not None and name not in HELPERS:
        spot.refuse(f"no helper is named {shown(name)}{suggestion(name, HELPERS)}")
    elif name is not None and (wrong := [key for key in others if key not in _protocols_of(name)]):
        fit = " or ".join(_protocols_of(name))
        spot.refuse(
            f"the helper {name} reads {fit}, not {wrong[0]}; write the others in an entry of their own"
        )
    else:
        return name
    return None


def _protocols_of(helper: str) -> tuple[str, ...]:
    return tuple(protocol.value for protocol in HELPERS[helper].protocols)


def _read_numbers(
    spot: Spot, names: Mapping[str, int], what: str, highest: int | None = None
) -> tuple[int, ...]:
    """Sorted, each once. Without `highest` only the names are taken."""
    found: set[int] = set()
    for item in spot.one_or_more():
        word = item.text()
        if word is None:
            continue
        if word in names:
            found.add(names[word])
        elif highest and word.isascii() and word.isdecimal() and len(word) <= 3 and 0 < int(word) <= highest:
            found.add(int(word))
        else:
            item.refuse(f"{shown(word)} is not {what}{suggestion(word, names)}")
    return tuple(sorted(found))


def _read_ports(spot: Spot) -> tuple[PortRange, ...]:
    ranges = [found for item in spot.one_or_more() if (found := _read_range(item))]
    return _merged(ranges)


def _read_range(item: Spot) -> PortRange | None:
    text = item.text()
    if text is None:
        return None
    if isinstance(item.node, Scalar) and not item.node.plain:
        item.refuse(f"{shown(text)} is in quotes; write the number without them")
        return None
    parts = _RANGE.fullmatch(text)
    first, last = (int(parts[1]), int(parts[2] or parts[1])) if parts else (0, 0)
    if not parts:
        item.refuse(f"{shown(text)} is not a port; write numbers, {_EXAMPLE}")
    elif max(first, last) > 65535:
        item.refuse(f"{text} is out of range; ports are 1 to 65535")
    elif first > last:
        item.refuse(f"{text} runs backwards; write {last}-{first}")
    else:
        return PortRange(first, last)
    return None


def _merged(ranges: list[PortRange]) -> tuple[PortRange, ...]:
    """Sorted and without overlaps, as an nft set wants them."""
    merged: list[PortRange] = []
    for one in sorted(ranges, key=lambda found: found.first):
        if merged and one.first <= merged[-1].last:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, one.last))
        else:
            merged.append(one)
    return tuple(merged)


def _short(protocol: str, values: tuple[PortRange, ...] | tuple[int, ...]) -> str:
    name = f"{protocol} {','.join(str(one) for one in values)}"
    if len(name) <= _MAX_NAME:
        return name
    what = "ranges" if isinstance(values[0], PortRange) else "numbers"
    return f"{protocol} {values[0]},... ({len(values)} {what})"
