# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pair file says that can never take effect: warnings, each with its place. Pure.

Only what is certain is reported. Between entries that is found where one earlier entry takes all of a
service; what several take together, and what a dynamic set may hold, is skipped.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network

from agent.errors import Problem
from agent.model.pair import (
    ANY_ADDRESS,
    SELF_ZONE,
    Action,
    Addresses,
    Interface,
    IPAddress,
    IPInterface,
    IPNetwork,
    Pair,
    Place,
    PortForward,
    Protocol,
    Rule,
    Service,
    SourceNat,
    Translation,
)
from agent.rules.gate import VRRP
from agent.rules.matching import VERSIONS
from agent.rules.peer import MULTI_HOP_BFD, SINGLE_HOP_BFD
from agent.rules.source_check import find_believed
from agent.rules.values import intervals

Spans = list[tuple[int, int]]
_EVERY = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_NOT_FORWARDED = tuple(
    ip_network(each)
    for each in ("224.0.0.0/4", "255.255.255.255", "169.254.0.0/16", "ff00::/8", "fe80::/10")
)
_BFD = (SINGLE_HOP_BFD, MULTI_HOP_BFD)
_ECHO = {Protocol.ICMP: (), Protocol.ICMPV4: (8,), Protocol.ICMPV6: (128,)}
_MAX_COMPARED = 400_000
"""Pairs of entries; a policy of thousands of rules is not to be looked at for minutes."""


def find_warnings(pair: Pair) -> tuple[Problem, ...]:
    """All that a check says of a pair file that is good."""
    return (*find_unreached(pair), *find_believed(pair))


def find_unreached(pair: Pair) -> tuple[Problem, ...]:
    """In the order of the file: the policy, then the translations."""
    looked = _Looked(pair)
    found = [*looked.rules(), *looked.sources(), *looked.forwards()]
    # an entry that names several zones says the same for each
    return tuple(dict.fromkeys(_problem(place, message) for place, message in found))


def _problem(place: Place, message: str) -> Problem:
    return Problem(place.path, f"{message} (line {place.line})" if place.line else message)


Said = tuple[Place, str]


@dataclass(slots=True)
class _Looked:
    pair: Pair
    spans: dict[tuple[Addresses, int], Spans | None] = field(default_factory=dict)
    compared: int = 0

    # -- rules --

    def rules(self) -> Iterator[Said]:
        earlier: dict[tuple[str, str], list[Rule]] = {}
        for rule in self.pair.policy:
            before = earlier.setdefault((rule.from_zone, rule.to_zone), [])
            yield from ((rule.place, message) for message in self._rule(rule, before))
            before.append(rule)

    def _rule(self, rule: Rule, before: list[Rule]) -> Iterator[str]:
        hidden = [self._hiding(rule, service, before) for service in rule.services]
        if hidden and all(hidden):
            names = ", ".join(dict.fromkeys(one.place.path for one in hidden if one))
            yield f"never matches: {names} decides before it"
            return
        if rule.action is not Action.ACCEPT:
            yield from self._every_address(rule)
        yield from self._to_self(rule) if rule.to_zone == SELF_ZONE else self._forwarded(rule)

    def _hiding(self, rule: Rule, service: Service, before: list[Rule]) -> Rule | None:
        for one in before:
            if self._may_compare() and (
                any(_takes(other, service) for other in one.services)
                and self._covers(one.source, rule.source, service.versions)
                and self._covers(one.destination, rule.destination, service.versions)
            ):
                return one
        return None

    def _every_address(self, rule: Rule) -> Iterator[str]:
        for addresses in (rule.source, rule.destination):
            if addresses.is_any:
                continue
            for network in _EVERY:
                if self._covers(addresses, Addresses((network,)), (network.version,)):
                    names = ", ".join(addresses.sets) or "the list"
                    yield f"stops every IPv{network.version} address: {names} holds {network}"

    def _to_self(self, rule: Rule) -> Iterator[str]:
        own = [address.ip for one in self.pair.interfaces for address in _addresses(one)]
        ours = Addresses((*map(ip_network, own), *_NOT_FORWARDED, *_broadcasts(self.pair)))
        if self._apart(rule.destination, ours):
            yield "never matches: its destination is not an address of the firewalls"
        yield from self._ends(rule.from_zone, SELF_ZONE, rule.source, ANY_ADDRESS)
        for service in rule.services:
            if _is_of_the_pair(service):
                yield f"does nothing to {service.name}: it is for the firewalls among themselves only"
            elif not self._is_managed(rule, service):
                yield from self._taken_from_self(rule, service)
        if rule.action is Action.ACCEPT and not rule.rate and not rule.connections:
            return
        for service in rule.services:
            if service.protocol in _ECHO and set(service.numbers) <= set(_ECHO[service.protocol]):
                yield f"does nothing to {service.name}: an echo request to the firewalls is always accepted"
            elif any(_takes(one, service) for one in self.pair.management.services):
                managed = [str(one) for one in self._managers(rule)]
                if managed:
                    yield f"does nothing to {service.name} from {', '.join(managed)}: that is management"

    def _is_managed(self, rule: Rule, service: Service) -> bool:
        """Whether some of it may be management, which no translation takes away."""
        services = any(_overlap(one, service) for one in self.pair.management.services)
        return services and not self._apart(rule.source, Addresses(self.pair.management.sources))

    def _taken_from_self(self, rule: Rule, service: Service) -> Iterator[str]:
        """A service that is led to a server from all virtual addresses that it may be asked for at."""
        for version in service.versions:
            asked = self._virtual(rule, version)
            takers = [self._taker(rule, service, address) for address in asked]
            if asked and all(takers):
                places = ", ".join(dict.fromkeys(one.place.path for one in takers if one))
                where = ", ".join(map(str, asked))
                yield f"does nothing to {service.name} at {where}: {places} leads that to a server"

    def _virtual(self, rule: Rule, version: int) -> list[IPAddress]:
        """The virtual addresses that the rule is about: named ones, or those of its zone."""
        everywhere = rule.destination.is_any
        return [
            vip.ip
            for interface, vip in self.pair.vips()
            if vip.version == version
            and (interface.zone == rule.from_zone or not everywhere)
            and self._covers(rule.destination, Addresses((ip_network(vip.ip),)), (version,))
        ]

    def _taker(self, rule: Rule, service: Service, address: IPAddress) -> PortForward | SourceNat | None:
        asked = PortForward(
            rule.from_zone, SELF_ZONE, (service,), (address,), (address,), source=rule.source
        )
        return self._asked_before(asked, address, self.pair.translations)

    def _managers(self, rule: Rule) -> Iterator[IPNetwork]:
        """Sources of management that `rule` seems to be about."""
        there = Addresses(tuple(n for one in self.pair.in_zone(rule.from_zone) for n in one.networks))
        for network in self.pair.management.sources:
            one = Addresses((network,))
            meant = there if rule.source.is_any else rule.source
            if not self._apart(meant, one) and not self._apart(there, one):
                yield network

    def _forwarded(self, rule: Rule) -> Iterator[str]:
        own = {address.ip for one in self.pair.interfaces for address in _addresses(one)}
        mine = Addresses(tuple(map(ip_network, own)))
        if not rule.destination.is_any and self._covers(mine, rule.destination, VERSIONS):
            yield (
                "never matches: its destination is the firewalls' own; a rule sees the server that a"
                " connection is led to, and what is for the firewalls themselves is `to: self`"
            )
            return
        if self._led_away(rule):
            yield "never matches: all of it is forwarded to a server; name the server as destination"
        elif not rule.destination.is_any and self._covers(
            Addresses(_NOT_FORWARDED), rule.destination, VERSIONS
        ):
            yield "never matches: multicast, broadcast and link-local addresses are not routed here"
        yield from self._ends(rule.from_zone, rule.to_zone, rule.source, rule.destination)

    def _led_away(self, rule: Rule) -> bool:
        """Whether everything that the rule is about is for the public addresses of forwards and prefixes."""
        led: list[IPNetwork] = []
        for one in self.pair.translations:
            if isinstance(one, SourceNat):
                led += one.prefixes[1:] if one.prefixes and one.to_zone == rule.from_zone else ()
            elif (
                rule.from_zone in one.askers and one.source.is_any and _take_all(one.services, rule.services)
            ):
                versions = {target.version for target in one.targets}
                led += (ip_network(each) for each in self.pair.asked(one) if each.version in versions)
        return (
            bool(led)
            and not rule.destination.is_any
            and self._covers(Addresses(tuple(led)), rule.destination, VERSIONS)
        )

    def _ends(
        self, from_zone: str, to_zone: str, source: Addresses, destination: Addresses
    ) -> Iterator[str]:
        """Addresses that are connected to another zone than the one that is named."""
        checked = not any(one.no_source_check for one in self.pair.in_zone(from_zone))
        for word, zone, addresses in (("source", from_zone, source), ("destination", to_zone, destination)):
            other = self._lives_in(addresses)
            if other is not None and zone != other.zone and (word == "destination" or checked):
                where = f"{other.name}, in {other.zone}, not in {zone}"
                yield f"never matches: its {word} is connected to {where}"

    def _lives_in(self, addresses: Addresses) -> Interface | None:
        """The interface that all of `addresses` are connected to."""
        if addresses.is_any:
            return None
        for interface in self.pair.data_interfaces:
            if self._covers(Addresses(interface.networks), addresses, VERSIONS):
                return interface
        return None

    # -- translations --

    def sources(self) -> Iterator[Said]:
        earlier: dict[tuple[str, str], list[SourceNat]] = {}
        for nat in self.pair.nat:
            before = earlier.setdefault((nat.from_zone, nat.to_zone), [])
            hiding = next((one for one in before if self._may_compare() and self._hides(one, nat)), None)
            if hiding is not None:
                yield nat.place, f"never matches: {hiding.place.path} decides before it"
            elif nat.prefixes is None:
                for message in self._ends(nat.from_zone, nat.to_zone, nat.source, nat.destination):
                    yield nat.place, message
            else:
                inside = Addresses(nat.prefixes[:1])
                for message in self._ends(nat.from_zone, nat.to_zone, inside, ANY_ADDRESS):
                    yield nat.place, message
            before.append(nat)

    def _hides(self, one: SourceNat, nat: SourceNat) -> bool:
        source = Addresses(nat.prefixes[:1]) if nat.prefixes else nat.source
        versions = tuple(
            version
            for version in VERSIONS
            if self._spans(source, version) and self._spans(nat.destination, version)
        )
        if one.prefixes is not None:
            # the way in stays open to another outer prefix
            return nat.prefixes == one.prefixes
        decides = one.translation is Translation.KEEP or all(
            any(each.first.version == version for each in one.addresses)
            or (one.translation is Translation.VIP and self._has_vips(one.to_zone, version))
            for version in versions
        )
        return (
            nat.prefixes is None
            and decides
            and _take_all(one.services, nat.services)
            and self._covers(one.source, source, versions)
            and self._covers(one.destination, nat.destination, versions)
        )

    def _has_vips(self, zone: str, version: int) -> bool:
        return all(any(vip.version == version for vip in one.vips) for one in self.pair.in_zone(zone))

    def forwards(self) -> Iterator[Said]:
        before: list[PortForward | SourceNat] = []
        for one in self.pair.translations:
            if isinstance(one, PortForward):
                yield from ((one.place, message) for message in self._forward(one, before))
            before.append(one)

    def _forward(self, one: PortForward, before: list[PortForward | SourceNat]) -> Iterator[str]:
        versions = {target.version for target in one.targets}
        asked = [address for address in self.pair.asked(one) if address.version in versions]
        hiding = [self._asked_before(one, address, before) for address in asked]
        if asked and all(hiding):
            names = ", ".join(dict.fromkeys(each.place.path for each in hiding if each))
            yield f"never matches: {names} decides before it"
        nodes = {a.ip for each in self.pair.interfaces for _, own in each.addresses for a in own}
        for target in one.targets:
            if target in nodes:
                yield f"leads nowhere: {target} is a node's own, and nothing is forwarded to a node"
            lives = self._lives_in(Addresses((ip_network(target),)))
            if lives is not None and lives.zone != one.to_zone:
                message = f"{target} is connected to {lives.name}, in {lives.zone}, not in {one.to_zone}"
                yield f"leads nowhere: {message}"
        yield from self._ends(one.from_zone, one.to_zone, one.source, ANY_ADDRESS) if not one.hairpin else ()

    def _asked_before(
        self, one: PortForward, address: IPAddress, before: Iterable[PortForward | SourceNat]
    ) -> PortForward | SourceNat | None:
        for other in before if self._may_compare() else ():
            if isinstance(other, SourceNat):
                if other.prefixes and address in other.prefixes[1] and (other.to_zone,) == one.askers:
                    return other
            elif (
                set(one.askers) <= set(other.askers)
                and address in self.pair.asked(other)
                and any(target.version == address.version for target in other.targets)
                and self._covers(other.source, one.source, (address.version,))
                and _take_all(other.services, one.services)
            ):
                return other
        return None

    # -- addresses --

    def _may_compare(self) -> bool:
        self.compared += 1
        return self.compared <= _MAX_COMPARED

    def _spans(self, addresses: Addresses, version: int) -> Spans | None:
        """What `addresses` cover of one IP version; None when a dynamic set is among them."""
        key = (addresses, version)
        if key not in self.spans:
            named = [one for one in self.pair.sets if one.name in addresses.sets]
            every = (*addresses.networks, *(network for one in named for network in one.networks))
            found = intervals(_EVERY if addresses.is_any else every, version)
            self.spans[key] = None if any(one.dynamic for one in named) else found
        return self.spans[key]

    def _covers(self, outer: Addresses, inner: Addresses, versions: Iterable[int]) -> bool:
        """Whether `outer` surely holds all of `inner`."""
        if outer.is_any or outer == inner:
            return True
        for version in versions:
            held, wanted = self._spans(outer, version), self._spans(inner, version)
            if held is None or wanted is None:
                return False
            if not all(_last_from(held, first)[1] >= last for first, last in wanted):
                return False
        return True

    def _apart(self, one: Addresses, other: Addresses) -> bool:
        """Whether no address is surely in both."""
        for version in VERSIONS:
            mine, theirs = self._spans(one, version), self._spans(other, version)
            if mine is None or theirs is None:
                return False
            if any(_last_from(theirs, last)[1] >= first for first, last in mine):
                return False
        return True


def _last_from(spans: Spans, highest: int) -> tuple[int, int]:
    """The last of `spans` that begins at `highest` or before; they are in order and apart."""
    found = bisect_right(spans, highest, key=lambda one: one[0])
    return spans[found - 1] if found else (-1, -1)


def _take_all(services: Iterable[Service], others: Iterable[Service]) -> bool:
    """The same of what translations are about, where none is all."""
    mine, theirs = tuple(services), tuple(others)
    return not mine or (bool(theirs) and all(any(_takes(one, each) for one in mine) for each in theirs))


def _takes(one: Service, other: Service) -> bool:
    """Whether all that is of `other` is of `one`."""
    if one.protocol is Protocol.ANY:
        return True
    if one.protocol is Protocol.NUMBER:
        return other.protocol is Protocol.NUMBER and set(other.numbers) <= set(one.numbers)
    if one.protocol is not other.protocol:
        return False
    if not one.ports:
        return set(other.numbers) <= set(one.numbers)
    return bool(other.ports) and all(
        any(mine.first <= each.first and each.last <= mine.last for mine in one.ports)
        for each in other.ports
    )


def _overlap(one: Service, other: Service) -> bool:
    """Whether something may be of both."""
    if Protocol.ANY in (one.protocol, other.protocol) or Protocol.NUMBER in (one.protocol, other.protocol):
        return True
    return one.protocol is other.protocol and any(
        mine.first <= each.last and each.first <= mine.last for mine in one.ports for each in other.ports
    )


def _is_of_the_pair(service: Service) -> bool:
    """What is taken from the other node alone, before any rule."""
    if service.protocol is Protocol.NUMBER:
        return service.numbers == (VRRP,)
    return (
        service.protocol is Protocol.UDP
        and bool(service.ports)
        and all(port.first == port.last and port.first in _BFD for port in service.ports)
    )


def _addresses(interface: Interface) -> Iterator[IPInterface]:
    yield from interface.vips
    for _, addresses in interface.addresses:
        yield from addresses


def _broadcasts(pair: Pair) -> Iterator[IPNetwork]:
    for interface in pair.interfaces:
        yield from (ip_network(network.broadcast_address) for network in interface.networks)
