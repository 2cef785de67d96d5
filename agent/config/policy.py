# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy: zones and how they are treated, and the rules between them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from agent.config.addresses import Sets, read_addresses, versions_of
from agent.config.reader import WORD, Spot, suggestion
from agent.config.services import Services, read_services
from agent.config.source_tree import Mapping as Tree
from agent.config.source_tree import shown
from agent.model.pair import (
    SELF_ZONE,
    SYNC_ZONE,
    Action,
    Connections,
    Interface,
    Place,
    Rate,
    Rule,
    Service,
    Side,
    Zone,
)

_RATE = re.compile(r"([1-9][0-9]{0,6})/(second|minute|hour|day)( burst ([1-9][0-9]{0,5}))?( per source)?")
_CONNECTIONS = re.compile(r"([1-9][0-9]{0,6})( per source)?")
_ACTIONS = {"allow": Action.ACCEPT, "reject": Action.REJECT, "drop": Action.DROP}
_LIMITS = ("limit", "connections")
_LENGTHS = {"ipv4_prefix": 32, "ipv6_prefix": 128}
_LONGEST_REFILL_S = 365 * 86_400
_DEFAULT_BURST = 5


@dataclass(frozen=True, slots=True)
class Words:
    """What a rule may call by name. Without `interfaces` the zones are not known."""

    interfaces: tuple[Interface, ...]
    services: Services
    sets: Sets

    @property
    def zones(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(interface.zone for interface in self.interfaces))

    def in_zone(self, zone: str) -> tuple[Interface, ...]:
        return tuple(interface for interface in self.interfaces if interface.zone == zone)


def read_zones(spots: Iterable[Spot], words: Words) -> Iterator[Zone]:
    seen: set[str] = set()
    for spot in spots:
        for name, below in spot.entries():
            fields = below.fields((), ("side", "log"))
            side = fields["side"].choice(Side) if "side" in fields else None
            log = fields["log"].boolean() if "log" in fields else None
            if name in seen:
                below.refuse(f"{name} is already in another file; merge the two")
            elif is_data_zone(below, name, words):
                seen.add(name)
                yield Zone(name, side or Side.OUTSIDE, bool(log))


def read_policy(spots: Iterable[Spot], words: Words) -> Iterator[Rule]:
    names: set[str] = set()
    every = (item for spot in spots for item in spot.items())
    for number, item in enumerate(every):
        place = Place(number, item.path, item.node.line)
        yield from (replace(rule, place=place) for rule in _read_rule(item, words, names))


def _read_rule(item: Spot, words: Words, names: set[str]) -> Iterator[Rule]:
    optional = (*_ACTIONS, "name", "source", "destination", *_LIMITS, *_LENGTHS, "log")
    fields = item.fields(("from", "to"), optional)
    if not isinstance(item.node, Tree):
        return
    name = _read_name(fields, names)
    ways = tuple(read_ways(item, fields, words))
    action, services = _read_action(item, fields, words)
    source = read_addresses(fields.get("source"), words.sets)
    destination = read_addresses(fields.get("destination"), words.sets)
    rate = _read_rate(fields["limit"]) if "limit" in fields else None
    connections = _read_connections(fields["connections"]) if "connections" in fields else None
    log = fields["log"].boolean() if "log" in fields else None
    _check_name(item, fields)
    if action is not Action.ACCEPT:
        for key in _LIMITS:
            if key in fields:
                fields[key].refuse(
                    f"a limit applies to what is allowed, and this is {action.value}; remove it"
                )
    versions = versions_of(source, words.sets) & versions_of(destination, words.sets)
    check_versions(item, services, versions)
    limits = (rate, connections, bool(log), _read_lengths(fields, rate, connections))
    for from_zone, to_zone in ways:
        yield Rule(from_zone, to_zone, services, action, name, source, destination, *limits)


def _read_lengths(
    fields: Mapping[str, Spot], rate: Rate | None, connections: Connections | None
) -> tuple[int, int]:
    """How much of an address is one source."""
    per_source = any(limit is not None and limit.per_source for limit in (rate, connections))
    found = {key: fields[key].integer(1, highest) for key, highest in _LENGTHS.items() if key in fields}
    for key in found if not per_source else ():
        fields[key].refuse("is for limits per source; write `per source` behind one, or remove this")
    return found.get("ipv4_prefix") or 32, found.get("ipv6_prefix") or 64


def _read_name(fields: Mapping[str, Spot], names: set[str]) -> str | None:
    if "name" not in fields:
        return None
    name = fields["name"].matching(*WORD)
    if name in names:
        fields["name"].refuse(f"{name} is the name of another rule already; choose another one")
    if name:
        names.add(name)
    return name


def _check_name(item: Spot, fields: Mapping[str, Spot]) -> None:
    """What the kernel counts and the log says is kept under the rule's name, wherever the rule stands."""
    for key in (*_LIMITS, "log"):
        if key in fields and "name" not in fields:
            item.refuse(f"{key} needs a name; write name: too")
            return


def _read_action(item: Spot, fields: Mapping[str, Spot], words: Words) -> tuple[Action, tuple[Service, ...]]:
    keys = [key for key in _ACTIONS if key in fields]
    if not keys:
        item.refuse("allow is missing; write what may pass, or reject or drop with what may not")
        return Action.ACCEPT, ()
    if len(keys) > 1:
        item.refuse(f"{keys[0]} and {keys[1]} are in one rule; make two rules of it, in order")
    return _ACTIONS[keys[0]], read_services(fields[keys[0]], words.services)


def check_versions(item: Spot, services: Iterable[Service], versions: frozenset[int]) -> None:
    """A rule that no packet can ever match is a mistake."""
    if not versions:
        item.refuse("no packet matches: source and destination share no IP version; look at both")
    for service in services:
        if versions and not versions.intersection(service.versions):
            item.refuse(f"{service.name} does not go over the IP version of these addresses; remove one")


def read_ways(item: Spot, fields: Mapping[str, Spot], words: Words) -> Iterator[tuple[str, str]]:
    """The zones that an entry leads from and to; `self` only where a rule may lead there."""
    may_be_self = any(key in fields for key in _ACTIONS)
    starts = tuple(_read_zones_at(fields.get("from"), words, may_be_self=False))
    tos = tuple(_read_zones_at(fields.get("to"), words, may_be_self=may_be_self))
    for from_zone, to_zone in product(starts, tos):
        if SYNC_ZONE in (from_zone, to_zone):
            item.refuse("nothing is forwarded from or to the sync link; name other zones")
        elif from_zone == to_zone and len(words.in_zone(from_zone)) < 2:
            item.refuse(f"goes from {from_zone} to itself, which is one network; name two zones")
        else:
            yield from_zone, to_zone


def _read_zones_at(spot: Spot | None, words: Words, *, may_be_self: bool) -> Iterator[str]:
    seen: set[str] = set()
    for item in spot.one_or_more() if spot else ():
        zone = item.text()
        if zone is None:
            continue
        if zone in seen:
            item.refuse(f"{zone} is here twice; remove one")
        elif zone == SELF_ZONE and not may_be_self:
            item.refuse("self can only be where a rule of the policy leads; what the firewalls send is free")
        elif zone in (SELF_ZONE, SYNC_ZONE) or is_data_zone(item, zone, words):
            seen.add(zone)
            yield zone


def is_data_zone(spot: Spot, zone: str, words: Words) -> bool:
    """Whether an interface other than the sync link is in `zone`; a problem at `spot` when not."""
    if words.zones and (zone not in words.zones or zone == SYNC_ZONE):
        known = [name for name in words.zones if name != SYNC_ZONE]
        spot.refuse(f"no interface is in a zone named {shown(zone)}{suggestion(zone, known)}")
        return False
    return True


def _read_rate(spot: Spot) -> Rate | None:
    text = spot.text()
    if text is None:
        return None
    parts = _RATE.fullmatch(text)
    if not parts:
        spot.refuse(
            f"{shown(text)} is not a rate; write it as in 10/second, 100/minute burst 20"
            " or 5/second per source"
        )
        return None
    rate = Rate(int(parts[1]), parts[2], int(parts[4] or _DEFAULT_BURST), bool(parts[5]))
    if rate.refill_s > _LONGEST_REFILL_S:
        spot.refuse(f"a burst of {rate.burst} would take more than a year at this rate; write a smaller one")
        return None
    return rate


def _read_connections(spot: Spot) -> Connections | None:
    text = spot.text()
    if text is None:
        return None
    parts = _CONNECTIONS.fullmatch(text)
    if not parts:
        spot.refuse(f"{shown(text)} is not a number of connections; write it as in 100 or 20 per source")
        return None
    return Connections(int(parts[1]), bool(parts[2]))
