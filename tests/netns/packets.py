# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets for tests: sent from and seen in namespaces. A socket stays in the namespace it was made in."""

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

from tests.netns.namespaces import Namespace

SYN, ACK = 0x02, 0x10
ECHO_4, ECHO_6 = 8, 128
NEIGHBOR_TYPES = range(130, 144)
ETH_P_ALL = 3
PATIENCE_S = 3.0
SILENCE_S = 0.3


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def make_socket(namespace: Namespace, family: int, kind: int, protocol: int = 0) -> socket.socket:
    with namespace.entered():
        made = socket.socket(family, kind, protocol)
    made.settimeout(PATIENCE_S)
    return made


def listen(namespace: Namespace, address: str, port: int) -> socket.socket:
    listener = make_socket(namespace, family_of(address), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()
    return listener


def accept(listener: socket.socket) -> socket.socket:
    """The next connection; like every socket here it does not wait forever."""
    accepted, _ = listener.accept()
    accepted.settimeout(PATIENCE_S)
    return accepted


def connect(namespace: Namespace, address: str, port: int, source_port: int = 0) -> socket.socket | None:
    """None when nobody answers. A refusal is an answer, and an error."""
    connection = make_socket(namespace, family_of(address), socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", source_port))
    connection.settimeout(SILENCE_S)
    try:
        connection.connect((address, port))
    except TimeoutError:
        connection.close()
        return None
    connection.settimeout(PATIENCE_S)
    return connection


def udp(namespace: Namespace, address: str, port: int) -> socket.socket:
    bound = make_socket(namespace, family_of(address), socket.SOCK_DGRAM)
    bound.bind((address, port))
    return bound


def receive(bound: socket.socket, timeout_s: float = SILENCE_S) -> bytes | None:
    """The next datagram, or None when none comes."""
    ready, _, _ = select.select([bound], [], [], timeout_s)
    return bound.recv(65536) if ready else None


def checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(namespace: Namespace, address: str) -> bool:
    """Whether `address` answers an echo request."""
    version = ip_address(address).version
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    kind = ECHO_4 if version == 4 else ECHO_6
    body = struct.pack("!BBHHH", kind, 0, 0, 77, 1)
    if version == 4:
        body = struct.pack("!BBHHH", kind, 0, checksum(body), 77, 1)
    with make_socket(namespace, family_of(address), socket.SOCK_RAW, protocol) as raw:
        raw.sendto(body, (address, 0))
        return any(_icmp_type(packet, version) == (0 if version == 4 else 129) for packet in _arriving(raw))


def _arriving(raw: socket.socket) -> Iterator[bytes]:
    deadline = time.monotonic() + SILENCE_S
    while (left := deadline - time.monotonic()) > 0:
        packet = receive(raw, left)
        if packet is not None:
            yield packet


def _icmp_type(packet: bytes, version: int) -> int:
    kind: int = packet[20] if version == 4 else packet[0]
    return kind


def send_tcp(namespace: Namespace, source: str, target: str, ports: tuple[int, int], flags: int) -> None:
    """One bare TCP segment (IPv4) with a right checksum, without any connection."""
    header = struct.pack("!HHLLBBHHH", *ports, 1000, 2000 if flags & ACK else 0, 5 << 4, flags, 8192, 0, 0)
    pseudo = ip_address(source).packed + ip_address(target).packed + struct.pack("!BBH", 0, 6, len(header))
    whole = header[:16] + struct.pack("!H", checksum(pseudo + header)) + header[18:]
    with make_socket(namespace, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.sendto(whole, (target, 0))


def send_udp_6(namespace: Namespace, source: str, target: str, ports: tuple[int, int], data: bytes) -> None:
    """One datagram (IPv6) with a right checksum, from any source that the sender likes."""
    ends = ip_address(source).packed + ip_address(target).packed
    length = 8 + len(data)
    header = struct.pack("!HHHH", *ports, length, 0)
    sum_16 = checksum(ends + struct.pack("!LL", length, socket.IPPROTO_UDP) + header + data)
    datagram = header[:6] + struct.pack("!H", sum_16 or 0xFFFF) + data
    packet = struct.pack("!LHBB", 6 << 28, length, socket.IPPROTO_UDP, 64) + ends + datagram
    with make_socket(namespace, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (target, 0))


@dataclass(frozen=True, slots=True)
class Capture:
    """Sees every IP packet that arrives on one interface, but for neighbor discovery and echoes."""

    tap: socket.socket
    near: Namespace
    fence: str

    def packets(self) -> list[bytes]:
        """All that arrived until now. Arrivals keep their order: the answer to an echo closes the list."""
        assert echo(self.near, self.fence)
        seen: list[bytes] = []
        while (frame := receive(self.tap, 0)) is not None:
            if (packet := _interesting(frame)) is not None:
                seen.append(packet)
        return seen


@contextmanager
def capture(namespace: Namespace, interface: str, fence: str) -> Iterator[Capture]:
    """`fence` is the address of the next hop itself, which must answer echo requests."""
    with make_socket(namespace, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap:
        tap.bind((interface, ETH_P_ALL))
        # what this side sends itself is of no interest: PACKET_IGNORE_OUTGOING
        tap.setsockopt(263, 23, 1)
        yield Capture(tap, namespace, fence)


def _interesting(frame: bytes) -> bytes | None:
    kind, packet = int.from_bytes(frame[12:14], "big"), frame[14:]
    if kind == 0x0800:
        is_echo = packet[9] == socket.IPPROTO_ICMP and packet[20] in (0, ECHO_4)
        return None if is_echo else packet
    if kind == 0x86DD:
        body = packet[48:] if packet[6] == 0 else packet[40:]
        is_neighbor = packet[6] in (0, socket.IPPROTO_ICMPV6) and body[0] in (*NEIGHBOR_TYPES, 128, 129)
        return None if is_neighbor else packet
    return None
