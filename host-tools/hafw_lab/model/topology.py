# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lab consists of: segments (bridges), nodes and their addresses. Pure; nothing here touches the
machine."""

import hashlib
from dataclasses import dataclass
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
)

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


class NodeKind(Enum):
    FIREWALL = "firewall"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Segment:
    """One bridge. Virtual addresses belong to the segment, because they float between the firewalls on
    it."""

    name: str
    zone: str
    vips: tuple[IPInterface, ...] = ()
    vrid: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One interface of a node and the segment it is plugged into."""

    name: str
    segment: str
    addresses: tuple[IPInterface, ...]


@dataclass(frozen=True, slots=True)
class Route:
    network: IPNetwork
    via: IPAddress


@dataclass(frozen=True, slots=True)
class NodeSpec:
    name: str
    kind: NodeKind
    links: tuple[Link, ...]
    routes: tuple[Route, ...] = ()
    priority: int | None = None
    """VRRP priority; firewalls only."""

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)


@dataclass(frozen=True, slots=True)
class Topology:
    segments: tuple[Segment, ...]
    nodes: tuple[NodeSpec, ...]

    def segment(self, name: str) -> Segment:
        return next(segment for segment in self.segments if segment.name == name)

    def node(self, name: str) -> NodeSpec | None:
        return next((node for node in self.nodes if node.name == name), None)

    @property
    def firewalls(self) -> tuple[NodeSpec, ...]:
        """The one that is to be primary first comes first."""
        found = [node for node in self.nodes if node.kind is NodeKind.FIREWALL]
        return tuple(sorted(found, key=lambda node: -(node.priority or 0)))

    def in_zone(self, zone: str) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.zone == zone)

    def routes_to_clients(self, segment: Segment) -> tuple[Route, ...]:
        """What replaces address translation: how a host on `segment` reaches the clients, through the
        virtual address. None for a segment that is not the servers'."""
        if segment.zone != "server":
            return ()
        return tuple(
            Route(there.network, here.ip)
            for clients in self.in_zone("client")
            for there in clients.vips
            for here in segment.vips
            if here.version == there.version
        )

    @property
    def vips(self) -> tuple[IPInterface, ...]:
        return tuple(vip for segment in self.segments for vip in segment.vips)


def compute_mac(node: str, link: str) -> str:
    """Locally stable: the same for every lab, so that captures can be compared. 52:54:00 is QEMU's range."""
    digest = hashlib.sha256(f"{node}/{link}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def fabric_name(node: str, link: str) -> str:
    """The bridge's end of a link. At most 15 bytes, which the parser sees to by hashing what is longer."""
    name = f"{node}.{link}"
    return name if len(name) <= 15 else "v" + hashlib.sha256(name.encode()).hexdigest()[:14]


def _addresses(*texts: str) -> tuple[IPInterface, ...]:
    return tuple(ip_interface(text) for text in texts)


def _firewall(name: str, priority: int, last: int) -> NodeSpec:
    return NodeSpec(
        name,
        NodeKind.FIREWALL,
        (
            Link("eth0", "br0", _addresses(f"192.168.0.{last}/24")),
            Link("eth1", "br1", _addresses(f"192.168.2.{last}/24")),
            Link("eth2", "br2", _addresses(f"192.168.1.{last}/24")),
        ),
        priority=priority,
    )


DEFAULT = Topology(
    segments=(
        Segment("br0", "server", _addresses("192.168.0.100/24"), 62),
        Segment("br1", "client", _addresses("192.168.2.100/24"), 61),
        Segment("br2", "sync"),
    ),
    nodes=(
        NodeSpec(
            "client",
            NodeKind.HOST,
            (Link("eth0", "br1", _addresses("192.168.2.10/24")),),
            (Route(IPv4Network("0.0.0.0/0"), IPv4Address("192.168.2.100")),),
        ),
        _firewall("fw-1", 150, 1),
        _firewall("fw-2", 140, 2),
        NodeSpec("omarine", NodeKind.HOST, (Link("eth0", "br0", _addresses("192.168.0.3/24")),)),
    ),
)
