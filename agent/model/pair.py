# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair: what both firewalls are, as frozen typed values.

`config.parse()` makes a `Pair` from the pair file and refuses whatever does not make sense; nothing behind
it checks again. Addresses are `ipaddress` objects, choices are enums, times carry their unit in the name.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import chain, product

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

SYNC_ZONE = "sync"
TUNNEL = "hafw-wg"
"""How the names of the tunnels begin; a number follows."""
SELF_ZONE = "self"
"""The firewalls themselves, as the end of a rule."""


class SyncMode(Enum):
    """Where conntrackd keeps the peer's states: in this kernel (DisableExternalCache), or in its external
    cache."""

    DIRECT = "direct"
    CACHE = "cache"


class Encryption(Enum):
    """What hides that which goes over the sync links."""

    WIREGUARD = "wireguard"


class AfterLimit(Enum):
    """What the gate does when its time limit is over and the states are still not usable."""

    OPEN = "open"
    CLOSED = "closed"


class Drift(Enum):
    """What is done about an external change to our rules. Either way it is recorded."""

    REPAIR = "repair"
    """Undo it at once. A pair file may say `mend`, the word of the first releases."""
    REPORT = "report"
    """Left as they are until the next change of role or reload."""


class Protocol(Enum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"
    ICMP = "icmp"
    """Echo, of ICMP and ICMPv6 alike; errors come in as related."""
    ICMPV4 = "icmpv4"
    """The ICMP types in `numbers`."""
    ICMPV6 = "icmpv6"
    NUMBER = "protocol"
    """The IP protocols in `numbers`, whole."""
    ANY = "any"


class Action(Enum):
    ACCEPT = "accept"
    REJECT = "reject"
    """Answered: TCP by a reset, the rest by an ICMP error."""
    DROP = "drop"


class Side(Enum):
    """Whether those in a zone are told that something is not allowed, or left waiting."""

    INSIDE = "inside"
    OUTSIDE = "outside"


class Translation(Enum):
    """What the source of a connection becomes."""

    VIP = "vip"
    """The virtual address of the interface it leaves by."""
    ADDRESS = "address"
    PREFIX = "prefix"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class PortRange:
    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Service:
    """What may be reached: `ports` is empty for protocols without ports; `helper` is the kernel's name
    ("ftp"); `numbers` are ICMP types or IP protocols."""

    name: str
    protocol: Protocol
    ports: tuple[PortRange, ...] = ()
    helper: str | None = None
    numbers: tuple[int, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that it can be asked for over."""
        return {Protocol.ICMPV4: (4,), Protocol.ICMPV6: (6,)}.get(self.protocol, (4, 6))


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface, alike on both nodes. `addresses` has the node's own ones; `vips` float between the
    nodes."""

    name: str
    zone: str
    addresses: tuple[tuple[str, tuple[IPInterface, ...]], ...]
    vips: tuple[IPInterface, ...] = ()
    vrid: int | None = None
    no_source_check: str | None = None
    """Why packets may come in here whose source lives elsewhere; None checks them."""

    def own(self, node: str) -> tuple[IPInterface, ...]:
        """The addresses of `node` on this interface."""
        return dict(self.addresses).get(node, ())

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The networks that are directly connected here, without repeats, in the order of the file."""
        every = (address.network for _, addresses in self.addresses for address in addresses)
        return tuple(dict.fromkeys((*(vip.network for vip in self.vips), *every)))


@dataclass(frozen=True, slots=True)
class Failover:
    advert_interval_ms: int = 100
    preempt: bool = False


@dataclass(frozen=True, slots=True)
class Sync:
    """`refresh_s`: after how long a primary in direct mode sends again what would run out on the backup;
    None lets the agent derive it."""

    mode: SyncMode = SyncMode.DIRECT
    port: int = 3780
    refresh_s: float | None = None
    channel_port: int = 3781
    """Of TCP, at which each agent listens for the other one."""
    encrypt: Encryption | None = None
    wireguard_port: int = 51820
    """Of UDP, on the first sync link; the second one has the next port."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """WireGuard over a sync link. `inside` is its interface, with addresses that no pair file has."""

    wire: Interface
    inside: Interface
    port: int


@dataclass(frozen=True, slots=True)
class Gate:
    limit_s: float = 10.0
    then: AfterLimit = AfterLimit.OPEN


@dataclass(frozen=True, slots=True)
class Zone:
    """How a zone is treated; every zone of the interfaces has one."""

    name: str
    side: Side = Side.OUTSIDE
    log: bool = False


@dataclass(frozen=True, slots=True)
class AddressSet:
    """A named set. A `dynamic` one may be changed in the kernel; its elements may go after `timeout_s`."""

    name: str
    networks: tuple[IPNetwork, ...]
    dynamic: bool = False
    timeout_s: int | None = None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Networks and the names of sets, either of which may match; with neither, every address does."""

    networks: tuple[IPNetwork, ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def is_any(self) -> bool:
        return not self.networks and not self.sets


ANY_ADDRESS = Addresses()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands: it is the `number`th of its list over all files. One entry that names several
    zones is several values here, with one place."""

    number: int = 0
    path: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)


NOWHERE = Place()


PERIODS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` new connections a `period` (nft's word), `burst` of them at once."""

    count: int
    period: str
    burst: int
    per_source: bool = False

    @property
    def refill_s(self) -> int:
        """After so long without a connection the whole burst may come again."""
        return -(-self.burst * PERIODS_S[self.period] // self.count)

    def __str__(self) -> str:
        return f"{self.count}/{self.period}{' per source' if self.per_source else ''}"


@dataclass(frozen=True, slots=True)
class Connections:
    """At most so many connections at the same time."""

    max_count: int
    per_source: bool = False

    def __str__(self) -> str:
        return f"{self.max_count} connections{' per source' if self.per_source else ''}"


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of new connections from one zone to another. The first rule that matches decides; what no
    rule is about is refused.

    An entry of the file that names several zones is several rules with one name, and shares its limits.
    """

    from_zone: str
    to_zone: str
    services: tuple[Service, ...]
    action: Action = Action.ACCEPT
    name: str | None = None
    source: Addresses = ANY_ADDRESS
    destination: Addresses = ANY_ADDRESS
    rate: Rate | None = None
    connections: Connections | None = None
    log: bool = False
    source_lengths: tuple[int, int] = (32, 64)
    """The networks of IPv4 and IPv6 that are one source each to the limits per source."""
    place: Place = NOWHERE

    @property
    def label(self) -> str:
        return self.name or f"{self.from_zone} to {self.to_zone}"


@dataclass(frozen=True, slots=True)
class AddressRange:
    first: IPAddress
    last: IPAddress

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class SourceNat:
    """What connections from one zone to another look as if they came from. The first entry that matches
    decides.

    `addresses` is for ADDRESS, at most one range of each IP version; `prefixes` for PREFIX, the inner one
    and the outer one. No `services` means all.
    """

    from_zone: str
    to_zone: str
    translation: Translation = Translation.VIP
    addresses: tuple[AddressRange, ...] = ()
    prefixes: tuple[IPNetwork, IPNetwork] | None = None
    source: Addresses = ANY_ADDRESS
    destination: Addresses = ANY_ADDRESS
    services: tuple[Service, ...] = ()
    place: Place = NOWHERE


@dataclass(frozen=True, slots=True)
class PortForward:
    """Connections from `from_zone` to the pair itself are forwarded to a server in `to_zone`, and allowed
    unless a rule says otherwise.

    No `addresses` means the virtual addresses of the zone's interfaces; no `services` means all. `targets`
    has at most one server of each IP version. With `hairpin` the server's own zone may use it as well.
    """

    from_zone: str
    to_zone: str
    services: tuple[Service, ...]
    targets: tuple[IPAddress, ...]
    addresses: tuple[IPAddress, ...] = ()
    port: int | None = None
    source: Addresses = ANY_ADDRESS
    hairpin: bool = False
    place: Place = NOWHERE

    @property
    def askers(self) -> tuple[str, ...]:
        """The zones that it may be asked from."""
        return (self.from_zone, self.to_zone) if self.hairpin else (self.from_zone,)

    @property
    def takes_whole_addresses(self) -> bool:
        """Whatever is for its addresses, from its sources."""
        return not self.services or any(one.protocol is Protocol.ANY for one in self.services)


@dataclass(frozen=True, slots=True)
class Management:
    """Who may always reach the firewalls themselves, in every role. Never empty."""

    sources: tuple[IPNetwork, ...]
    services: tuple[Service, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    name: str
    nodes: tuple[Node, ...]
    interfaces: tuple[Interface, ...]
    management: Management
    failover: Failover = field(default_factory=Failover)
    sync: Sync = field(default_factory=Sync)
    gate: Gate = field(default_factory=Gate)
    drift: Drift = Drift.REPAIR
    policy: tuple[Rule, ...] = ()
    nat: tuple[SourceNat, ...] = ()
    forwards: tuple[PortForward, ...] = ()
    sets: tuple[AddressSet, ...] = ()
    zones: tuple[Zone, ...] = ()
    """Only zones that are not treated as every zone is."""

    @property
    def data_interfaces(self) -> tuple[Interface, ...]:
        """The interfaces whose packets are forwarded: all but the sync links."""
        return tuple(interface for interface in self.interfaces if interface.zone != SYNC_ZONE)

    @property
    def sync_interfaces(self) -> tuple[Interface, ...]:
        """One, or two: then conntrackd uses the first one while it has a carrier."""
        return self.in_zone(SYNC_ZONE)

    @property
    def sync_links(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(interface.name for interface in self.sync_interfaces)

    @property
    def tunnels(self) -> tuple[Tunnel, ...]:
        """One for each sync link, where the pair file wants them."""
        if self.sync.encrypt is None:
            return ()
        return tuple(
            Tunnel(wire, self._inside(number), self.sync.wireguard_port + number)
            for number, wire in enumerate(self.sync_interfaces)
        )

    def _inside(self, number: int) -> Interface:
        """Its addresses are unique local ones (RFC 4193), made of the pair's name: both nodes know them."""
        network = hashlib.sha256(f"hafw {self.name}".encode()).digest()[:5]
        first = int.from_bytes(b"\xfd" + network + number.to_bytes(2, "big") + bytes(8), "big")
        names = sorted(node.name for node in self.nodes)
        own = ((name, (IPv6Interface((first + place, 64)),)) for place, name in enumerate(names, start=1))
        return Interface(f"{TUNNEL}{number}", SYNC_ZONE, tuple(own))

    @property
    def replication_links(self) -> tuple[Interface, ...]:
        """What conntrackd replicates over: the sync links, or the tunnels over them."""
        return tuple(one.inside for one in self.tunnels) or self.sync_interfaces

    @property
    def replication_names(self) -> dict[str, str]:
        """Their names, each with what people call it: of a tunnel also where its cable is."""
        wires = {one.inside.name: f" (on {one.wire.name})" for one in self.tunnels}
        return {one.name: f"{one.name}{wires.get(one.name, '')}" for one in self.replication_links}

    @property
    def every_interface(self) -> tuple[Interface, ...]:
        """Those of the pair file, and the tunnels."""
        return (*self.interfaces, *(one.inside for one in self.tunnels))

    @property
    def helpers(self) -> tuple[str, ...]:
        """The kernel's helpers that any connection may need."""
        every = (*(rule.services for rule in self.policy), *(one.services for one in self.forwards))
        return tuple(sorted({one.helper for services in every for one in services if one.helper}))

    @property
    def translations(self) -> tuple[PortForward | SourceNat, ...]:
        """In the order of the file, which decides between them."""
        return tuple(sorted((*self.forwards, *self.nat), key=lambda one: one.place.number))

    def asked(self, one: PortForward) -> tuple[IPAddress, ...]:
        """The addresses at which a forward is asked for."""
        vips = (vip.ip for interface in self.in_zone(one.from_zone) for vip in interface.vips)
        return one.addresses or tuple(vip for vip in vips if not vip.is_link_local)

    def given_away(self, entries: Iterable[PortForward | SourceNat]) -> frozenset[IPAddress]:
        """The virtual addresses that `entries` leave nothing of for the firewalls themselves."""
        found: set[IPAddress] = set()
        askers: dict[tuple[str, IPAddress], list[Addresses]] = {}
        for one in entries:
            if isinstance(one, SourceNat):
                found.update(vip.ip for _, vip in self.vips() if one.prefixes and vip.ip in one.prefixes[1])
            elif one.takes_whole_addresses:
                for asked in product(one.askers, self.asked(one)):
                    askers.setdefault(asked, []).append(one.source)
        found.update(
            address
            for (_, address), sources in askers.items()
            if self._every_address(sources, address.version)
        )
        return frozenset(found & {vip.ip for _, vip in self.vips()})

    def _every_address(self, sources: Collection[Addresses], version: int) -> bool:
        """Whether they are that together, of one IP version, also where that is written as networks."""
        names = {name for one in sources for name in one.sets}
        named = (one.networks for one in self.sets if one.name in names)
        listed = (one.networks for one in sources)
        every = (one for one in chain(*listed, *named) if one.version == version)
        covered = 0
        for first, last in sorted((int(one[0]), int(one[-1])) for one in every):
            if first > covered:
                break
            covered = max(covered, last + 1)
        whole = 1 << (32 if version == 4 else 128)
        return covered == whole or any(one.is_any for one in sources)

    def zone(self, name: str) -> Zone:
        return next((zone for zone in self.zones if zone.name == name), Zone(name))

    def in_zone(self, zone: str) -> tuple[Interface, ...]:
        return tuple(interface for interface in self.interfaces if interface.zone == zone)

    def advertiser(self, node: str, interface: Interface) -> IPv6Address | None:
        """The link-local address that `node` sends VRRP from over IPv6; None where there is none of that.
        It is made of the VRID, which is unique on that link, and of the place of the node's name: both
        nodes know it of each other, and no host gives itself such a one."""
        if interface.vrid is None or all(vip.version == 4 for vip in interface.vips):
            return None
        place = sorted(one.name for one in self.nodes).index(node) + 1
        return IPv6Address(f"fe80::6861:6677:{interface.vrid:x}:{place:x}")

    def vips(self) -> Iterator[tuple[Interface, IPInterface]]:
        """Every virtual address with the interface it lives on."""
        for interface in self.interfaces:
            for vip in interface.vips:
                yield interface, vip

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def peer_of(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name != name)
