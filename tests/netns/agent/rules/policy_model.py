# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy means, said a second time and in another way: from the pair to the fate of one packet.

Nothing of agent.rules is used here. Networks that are not connected are in `routes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from agent.model.pair import (
    SELF_ZONE,
    Action,
    Addresses,
    Interface,
    IPAddress,
    IPNetwork,
    Pair,
    PortForward,
    Protocol,
    Rule,
    Service,
    Side,
    SourceNat,
    Translation,
)
from tests.netns.wire import ICMP, ICMPV6, NAMES, VRRP, Packet

FATES = {Action.ACCEPT: "pass", Action.REJECT: "reject", Action.DROP: "drop"}


@dataclass(frozen=True, slots=True)
class Model:
    pair: Pair
    node: str
    routes: Mapping[IPNetwork, str]

    def fate_on_backup(self, packet: Packet) -> str:
        """Only what is for the node itself gets as far as the input chain."""
        mine = {own.ip for own in self._interface(packet.interface).own(self.node)}
        if packet.target not in mine or not self.lives_there(packet):
            return "drop"
        return self._local(packet)

    def fate(self, packet: Packet) -> str:
        """In the words of Wire.send, on a primary."""
        if not self.lives_there(packet):
            return "drop"
        entry, arrived = self._translate_target(packet)
        if arrived.target in self._firewall():
            return self._local(arrived)
        egress = self._egress(arrived.target)
        fate = self._forward(arrived, egress, entry)
        if fate != "pass":
            return fate
        left = replace(arrived, source=self._translate_source(arrived, egress, entry))
        return egress.name + _difference(packet, left)

    def _interface(self, name: str) -> Interface:
        return next(one for one in self.pair.interfaces if one.name == name)

    def _firewall(self) -> set[IPAddress]:
        every = (
            *(one.own(self.node) for one in self.pair.interfaces),
            *(i.vips for i in self.pair.interfaces),
        )
        return {address.ip for addresses in every for address in addresses}

    def _egress(self, target: IPAddress) -> Interface:
        for interface in self.pair.interfaces:
            if any(target in network for network in interface.networks):
                return interface
        return self._interface(next(name for network, name in self.routes.items() if target in network))

    def lives_there(self, packet: Packet) -> bool:
        interface = self._interface(packet.interface)
        return bool(interface.no_source_check) or self._egress(packet.source) == interface

    def _local(self, packet: Packet) -> str:
        if packet.protocol == VRRP:
            # none of these sources is the other node
            return "drop"
        if self._is_managed(packet):
            return "self"
        if packet.protocol in (ICMP, ICMPV6) and packet.number in (8, 128):
            return "self"
        zone = self._interface(packet.interface).zone
        rule = self._first(packet, zone, SELF_ZONE)
        fate = FATES[rule.action] if rule else self._refused(zone)
        return "self" if fate == "pass" else fate

    def _is_managed(self, packet: Packet) -> bool:
        there = any(packet.source in network for network in self.pair.management.sources)
        return there and any(is_of(packet, service) for service in self.pair.management.services)

    def _forward(self, packet: Packet, egress: Interface, entry: PortForward | SourceNat | None) -> str:
        """`entry` has translated the target. What a forward has translated is allowed by that forward."""
        zone = self._interface(packet.interface).zone
        own = {each.ip for _, addresses in egress.addresses for each in addresses}
        if packet.target in own and (packet.protocol, packet.number) not in ((ICMP, 8), (ICMPV6, 128)):
            # the other node's: nothing is forwarded to it but echo requests
            return "drop"
        rule = self._first(packet, zone, egress.zone)
        if rule:
            return FATES[rule.action]
        if isinstance(entry, PortForward) and entry.to_zone == egress.zone:
            return "pass"
        return self._refused(zone)

    def _refused(self, zone: str) -> str:
        return "reject" if self.pair.zone(zone).side is Side.INSIDE else "drop"

    def _first(self, packet: Packet, from_zone: str, to_zone: str) -> Rule | None:
        for rule in self.pair.policy:
            if (rule.from_zone, rule.to_zone) == (from_zone, to_zone) and (
                self._is_in(packet.source, rule.source)
                and self._is_in(packet.target, rule.destination)
                and any(is_of(packet, service) for service in rule.services)
            ):
                return rule
        return None

    def _is_in(self, address: IPAddress, addresses: Addresses) -> bool:
        named = {one.name: one.networks for one in self.pair.sets}
        every = (*addresses.networks, *(network for name in addresses.sets for network in named[name]))
        return addresses.is_any or any(address in network for network in every)

    def _translate_target(self, packet: Packet) -> tuple[PortForward | SourceNat | None, Packet]:
        """The first entry of the file that is about `packet` on its way in, and what it makes of it."""
        if self._is_managed(packet) and packet.target in self._kept():
            return None, packet
        for entry in self._entries():
            if isinstance(entry, PortForward):
                target = self._forwards_to(entry, packet)
                if target:
                    what = f"{packet.what.partition('/')[0]}/{entry.port}" if entry.port else packet.what
                    return entry, replace(packet, target=target, what=what)
            elif entry.prefixes and self._interface(packet.interface).zone == entry.to_zone:
                inside, outside = entry.prefixes
                if packet.target in outside:
                    return entry, replace(packet, target=_moved(packet.target, outside, inside))
        return None, packet

    def _entries(self) -> tuple[PortForward | SourceNat, ...]:
        return tuple(sorted((*self.pair.forwards, *self.pair.nat), key=lambda one: one.place.number))

    def _kept(self) -> set[IPAddress]:
        """The virtual addresses of which no entry takes everything."""
        kept = {vip.ip for interface in self.pair.interfaces for vip in interface.vips}
        for one in self.pair.nat:
            kept -= {vip for vip in kept if one.prefixes and vip in one.prefixes[1]}
        for forward in self.pair.forwards:
            whole = not forward.services or any(each.protocol is Protocol.ANY for each in forward.services)
            kept -= {each for each in forward.addresses if whole and self._is_for_all(forward, each)}
        return kept

    def _is_for_all(self, one: PortForward, address: IPAddress) -> bool:
        """As far as an entry of one line can say so."""
        first, last = (
            ("0.0.0.0", "255.255.255.255") if address.version == 4 else ("::", "ffff:" * 7 + "ffff")
        )
        return all(self._is_in(ip_address(each), one.source) for each in (first, last))

    def _forwards_to(self, one: PortForward, packet: Packet) -> IPAddress | None:
        """The server that `one` leads `packet` to."""
        asked = one.addresses or tuple(
            vip.ip for interface in self.pair.in_zone(one.from_zone) for vip in interface.vips
        )
        wanted = not one.services or any(is_of(packet, service) for service in one.services)
        zones = (one.from_zone, one.to_zone) if one.hairpin else (one.from_zone,)
        fits = self._interface(packet.interface).zone in zones and packet.target in asked
        if not (wanted and fits and self._is_in(packet.source, one.source)):
            return None
        return next((each for each in one.targets if each.version == packet.target.version), None)

    def _translate_source(
        self, packet: Packet, egress: Interface, entry: PortForward | SourceNat | None
    ) -> IPAddress:
        """`packet` as it was judged; the first entry of the file that is about it decides."""
        zone, version = self._interface(packet.interface).zone, packet.source.version
        vip = next((one.ip for one in egress.vips if one.version == version), None)
        for nat in self._entries():
            if isinstance(nat, PortForward):
                if nat is entry and nat.hairpin and zone == egress.zone == nat.to_zone and vip:
                    return vip
            elif (nat.from_zone, nat.to_zone) == (zone, egress.zone) and self._is_about(packet, nat):
                own = [each.first for each in nat.addresses if each.first.version == version]
                if nat.translation is Translation.KEEP:
                    return packet.source
                if nat.prefixes and packet.source in nat.prefixes[0]:
                    return _moved(packet.source, *nat.prefixes)
                if nat.translation is Translation.VIP and vip:
                    return vip
                if own:
                    return own[0]
        return packet.source

    def _is_about(self, packet: Packet, nat: SourceNat) -> bool:
        wanted = not nat.services or any(is_of(packet, service) for service in nat.services)
        ends = self._is_in(packet.source, nat.source) and self._is_in(packet.target, nat.destination)
        return wanted and ends


def is_of(packet: Packet, service: Service) -> bool:
    match service.protocol:
        case Protocol.ANY:
            return True
        case Protocol.NUMBER:
            return packet.protocol in service.numbers
        case Protocol.ICMP:
            return (packet.protocol, packet.number) in ((ICMP, 8), (ICMPV6, 128))
        case Protocol.ICMPV4:
            return packet.protocol == ICMP and packet.number in service.numbers
        case Protocol.ICMPV6:
            return packet.protocol == ICMPV6 and packet.number in service.numbers
    ports = any(one.first <= packet.number <= one.last for one in service.ports)
    return packet.protocol == NAMES[service.protocol.value] and ports


def _moved(address: IPAddress, old: IPNetwork, new: IPNetwork) -> IPAddress:
    return type(address)(int(new.network_address) + int(address) - int(old.network_address))


def _difference(before: Packet, after: Packet) -> str:
    text = "" if before.source == after.source else f" from {after.source}"
    if before.target != after.target:
        text += f" to {after.target}"
    return text + (f":{after.number}" if before.number != after.number else "")
