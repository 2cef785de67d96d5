# SPDX-License-Identifier: GPL-2.0-or-later
"""One firewall on wires: a packet goes in by an interface, and what becomes of it is seen.

The other ends of all wires are in one namespace. Frames are made by hand, so a packet may come from
anywhere; the firewall resolves no addresses, so it may go anywhere. Everything runs on one processor, where
packets keep their order: the answer to an echo that is sent behind a packet tells that it is through.
"""

import os
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count

from agent.adapters.nftables import Nftables
from agent.core.roles import RuleSet
from agent.model.pair import Interface, IPAddress, IPInterface, Pair
from agent.rules.compile import compile_pair
from tests.netns.namespaces import Namespace, start_namespaces
from tests.netns.packets import checksum, make_socket

ETH_P_ALL = 3
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
IGMP, TCP, UDP, GRE, AH, VRRP, ICMP, ICMPV6, SCTP = 2, 6, 17, 47, 51, 112, 1, 58, 132
NAMES = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
PATIENCE_S = 30.0
SETTINGS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.icmp_ratelimit=0",
    "net.ipv6.icmp.ratelimit=0",
    "net.netfilter.nf_conntrack_tcp_loose=0",
)


@dataclass(frozen=True, slots=True)
class Packet:
    """`what` is tcp/PORT, udp/PORT, sctp/PORT, icmp (an echo request), icmp/TYPE or proto/NUMBER; it may
    end in @TTL."""

    interface: str
    source: IPAddress
    target: IPAddress
    what: str

    def __str__(self) -> str:
        return f"{self.interface} {self.source} {self.target} {self.what}"

    @property
    def kind(self) -> str:
        return self.what.partition("@")[0]

    @property
    def hops(self) -> int:
        return int(self.what.partition("@")[2] or 64)

    @property
    def protocol(self) -> int:
        name, _, number = self.kind.partition("/")
        if name == "icmp":
            return ICMP if self.source.version == 4 else ICMPV6
        return NAMES.get(name) or int(number)

    @property
    def number(self) -> int:
        """The port, or the type of ICMP."""
        name, _, number = self.kind.partition("/")
        if name == "proto":
            return 0
        return int(number) if number else (8 if self.source.version == 4 else 128)


@dataclass(frozen=True, slots=True)
class Seen:
    source: IPAddress
    target: IPAddress
    protocol: int
    ports: tuple[int, int]
    """Of TCP, UDP and SCTP; else the type of ICMP and the identifier of an echo."""
    is_reset: bool


def frame_of(packet: Packet, mac: bytes, source_port: int) -> bytes:
    body = _body(packet, source_port)
    if packet.source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, packet.hops, packet.protocol, 0)
        addresses = packet.source.packed + packet.target.packed
        head = head[:10] + struct.pack("!H", checksum(head + addresses)) + addresses
        return mac + hardware_of(packet.source) + b"\x08\x00" + head + body
    head = struct.pack("!IHBB", 6 << 28, len(body), packet.protocol, packet.hops)
    addresses = packet.source.packed + packet.target.packed
    return mac + hardware_of(packet.source) + b"\x86\xdd" + head + addresses + body


def hardware_of(source: IPAddress) -> bytes:
    """Each host has its own."""
    return b"\x02\0\0" + source.packed[-3:]


def _body(packet: Packet, source_port: int) -> bytes:
    ports = struct.pack("!HH", source_port, packet.number)
    match packet.protocol:
        case 6:
            return _summed(packet, ports + struct.pack("!LLBBHHH", 1000, 0, 5 << 4, 2, 8192, 0, 0), 16)
        case 17:
            return _summed(packet, ports + struct.pack("!HH", 8, 0), 6)
        case 132:
            # an INIT: conntrack wants one, with a tag of zero and a right CRC
            init = struct.pack("!BBHLLHHL", 1, 0, 20, 1, 8192, 1, 1, 1)
            head = ports + struct.pack("!L", 0)
            return head + struct.pack("<L", _crc32c(head + bytes(4) + init)) + init
        case 1:
            body = struct.pack("!BBHHH", packet.number, 0, 0, source_port, 1) + bytes(12)
            return body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        case 58:
            return _summed(packet, struct.pack("!BBHHH", packet.number, 0, 0, source_port, 1), 2)
        case 112:
            # its checksum is looked at before it is refused with an answer
            advert = struct.pack("!BBBBLL", 0x31, 1, 255, 0, 0, 0)
            if packet.source.version == 6:
                return _summed(packet, advert, 6)
            return advert[:6] + struct.pack("!H", checksum(advert)) + advert[8:]
    return struct.pack("!HH", 0, 0x0800) + bytes(20)


def _summed(packet: Packet, body: bytes, at: int) -> bytes:
    pseudo = packet.source.packed + packet.target.packed + struct.pack("!LL", len(body), packet.protocol)
    return body[:at] + struct.pack("!H", checksum(pseudo + body)) + body[at + 2 :]


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read_ip(packet: bytes) -> Seen | None:
    """None for what a node says by itself: neighbor discovery, listeners, groups."""
    if packet[0] >> 4 == 4:
        source, target = ip_address(packet[12:16]), ip_address(packet[16:20])
        return _seen(source, target, packet[9], packet[(packet[0] & 15) * 4 :])
    return _seen(ip_address(packet[8:24]), ip_address(packet[24:40]), packet[6], packet[40:])


def _seen(source: IPAddress, target: IPAddress, protocol: int, body: bytes) -> Seen | None:
    if protocol in (0, IGMP) or (protocol == ICMPV6 and 130 <= body[0] <= 143):
        return None
    ports = (0, 0)
    if protocol in (ICMP, ICMPV6):
        ports = (body[0], int.from_bytes(body[4:6], "big"))
    elif protocol in NAMES.values():
        ports = (int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big"))
    return Seen(source, target, protocol, ports, protocol == TCP and bool(body[13] & 4))


@dataclass(slots=True)
class Wire:
    """`rules` is the real adapter, bound to the firewall's namespace. No table is loaded yet."""

    node: Namespace
    pair: Pair
    name: str
    rules: Nftables
    taps: Mapping[str, socket.socket]
    raws: Mapping[tuple[int, int], socket.socket]
    """Sockets of the node, by IP version and protocol: they hear what the input chain lets in."""
    macs: Mapping[str, bytes]
    role: RuleSet | None = None
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def be(self, role: RuleSet) -> None:
        """Loads the rules and forgets all connections; only a primary has the virtual addresses."""
        self.rules.load(role)
        self.role = role
        for interface in self.pair.interfaces:
            for vip in interface.vips:
                self._address(vip, interface.name, there=role is RuleSet.PRIMARY)
        self.node.run("conntrack", "-F")

    def drift(self) -> str | None:
        """What has changed in the rules since they were loaded."""
        return self.rules.verify(self.role).drift if self.role else None

    def _address(self, address: IPInterface, name: str, *, there: bool) -> None:
        nodad = " nodad" if address.version == 6 else ""
        lines = self.node.run("ip", "-o", "address", "show", "dev", name, "to", f"{address.ip}")
        if there and not lines:
            self.node.ip(f"address add {address} dev {name}{nodad}")
        elif lines and not there:
            self.node.ip(f"address del {address} dev {name}")

    def route(self, network: str, interface: str) -> None:
        self.node.ip(f"{'-6 ' if ':' in network else ''}route replace {network} dev {interface}")

    def send(self, packet: Packet) -> str:
        """What becomes of `packet`: `drop`, `reject`, `self`, or the interface it leaves by, with `from` and
        `to` where its addresses or its port are not what they were."""
        number = next(self.numbers) % 30_000 + 2000
        self.taps[packet.interface].send(frame_of(packet, self.macs[packet.interface], number))
        out = [(packet.interface, seen) for seen in self._until_through(packet.interface, number + 30_000)]
        out += [(name, seen) for name, tap in self.taps.items() for seen in _arrived(tap)]
        # a socket of IPv6 hears no headers: what it heard is told by its ports alone
        raw = self.raws[packet.source.version, packet.protocol]
        bodies = [body for body, _ in received(raw)]
        if any(_is_body(body, packet, number) for body in bodies):
            return "self"
        for name, seen in out:
            if seen.target == packet.source and _is_refusal(seen, packet):
                return "reject"
            if seen.protocol == packet.protocol and not seen.is_reset:
                return name + _changes(packet, seen)
        assert not out, f"{packet}: what is {out}?"
        return "drop"

    def _until_through(self, interface: str, number: int) -> list[Seen]:
        """Sends an echo behind the packet and waits for its answer; gives what came before that."""
        own = next(one for one in self.pair.every_interface if one.name == interface).own(self.name)[0]
        near = type(own.ip)(int(own.network.network_address) + 0xFD)
        tap = self.taps[interface]
        before: list[Seen] = []
        tap.send(frame_of(Packet(interface, near, own.ip, "icmp"), self.macs[interface], number))
        poll = select.poll()
        poll.register(tap, select.POLLIN)
        while True:
            assert poll.poll(PATIENCE_S * 1000), f"an echo on {interface} is not answered"
            seen = _of_frame(tap.recv(65536))
            if seen and seen.source == own.ip and seen.ports == (0 if own.version == 4 else 129, number):
                return before
            before += [seen] if seen else []


def _arrived(tap: socket.socket) -> Iterator[Seen]:
    for frame, _ in received(tap):
        if seen := _of_frame(frame):
            yield seen


def received(each: socket.socket) -> Iterator[tuple[bytes, object]]:
    while select.select([each], [], [], 0)[0]:
        yield each.recvfrom(65536)


def _of_frame(frame: bytes) -> Seen | None:
    return read_ip(frame[14:]) if frame[12:14] in (b"\x08\x00", b"\x86\xdd") else None


def _is_body(packet: bytes, wanted: Packet, number: int) -> bool:
    body = packet[(packet[0] & 15) * 4 :] if wanted.source.version == 4 else packet
    if wanted.protocol in (ICMP, ICMPV6):
        return int.from_bytes(body[4:6], "big") == number
    return wanted.protocol not in NAMES.values() or int.from_bytes(body[:2], "big") == number


def _is_refusal(seen: Seen, packet: Packet) -> bool:
    """A reset, or the ICMP error that says `administratively prohibited` (or any other: no route)."""
    if seen.protocol == TCP:
        return seen.is_reset
    errors = (3,) if packet.source.version == 4 else (1,)
    return seen.protocol in (ICMP, ICMPV6) and seen.ports[0] in errors


def _changes(packet: Packet, seen: Seen) -> str:
    """` from A to B:PORT`, as far as it is not what it was."""
    text = "" if seen.source == packet.source else f" from {seen.source}"
    port = seen.ports[1] if packet.protocol in NAMES.values() else 0
    if seen.target != packet.target:
        text += f" to {seen.target}"
    return text + (f":{port}" if port and port != packet.number else "")


@contextmanager
def start_wire(pair: Pair, name: str) -> Iterator[Wire]:
    """A firewall called `name`, with the addresses and interfaces that it has in `pair`."""
    with ExitStack() as stack:
        node, far = stack.enter_context(start_namespaces(name, "far"))
        processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(processors)})
        stack.callback(os.sched_setaffinity, 0, processors)
        for setting in SETTINGS:
            node.sysctl(*setting.split("="))
        far.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        taps, macs = {}, {}
        for number, interface in enumerate(pair.every_interface):
            node.ip(f"link add {interface.name} type veth peer name far{number} netns {far.path}")
            node.ip(f"link set {interface.name} arp off up")
            far.ip(f"link set far{number} up")
            for own in interface.own(name):
                node.ip(f"address add {own} dev {interface.name}{' nodad' if own.version == 6 else ''}")
            taps[interface.name] = stack.enter_context(_tap(far, f"far{number}"))
            macs[interface.name] = _mac(node, interface)
        raws = {
            (version, protocol): stack.enter_context(make_socket(node, family, socket.SOCK_RAW, protocol))
            for version, family, protocols in (
                (4, socket.AF_INET, (TCP, UDP, SCTP, GRE, AH, VRRP, ICMP)),
                (6, socket.AF_INET6, (TCP, UDP, SCTP, GRE, AH, VRRP, ICMPV6)),
            )
            for protocol in protocols
        }
        with node.entered():
            rules = Nftables(compile_pair(pair))
        yield Wire(node, pair, name, rules, taps, raws, macs)


def _tap(far: Namespace, name: str) -> socket.socket:
    tap = make_socket(far, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.bind((name, ETH_P_ALL))
    tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    return tap


def _mac(node: Namespace, interface: Interface) -> bytes:
    with make_socket(node, socket.AF_PACKET, socket.SOCK_RAW) as asking:
        asking.bind((interface.name, 0))
        return bytes(asking.getsockname()[4])
