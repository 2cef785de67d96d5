# SPDX-License-Identifier: GPL-2.0-or-later
"""One Ethernet frame with the first packet of a connection. Pure."""

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from agent.model.pair import IPAddress

_SYN = 0x02
_TTL = 64
SENDER = b"\x02\0\0\0\0\x01"  # an address of no host: locally administered


@dataclass(frozen=True, slots=True)
class Probe:
    """What is asked about. `protocol`: tcp, udp or icmp (ICMPv6 for IPv6 addresses), an echo request."""

    saddr: IPAddress
    daddr: IPAddress
    protocol: str
    sport: int = 0
    dport: int = 0


def build(probe: Probe, target: bytes) -> bytes:
    """`target` is the hardware address of the interface that it arrives at."""
    number, payload = _transport(probe)
    if isinstance(probe.saddr, IPv4Address):
        length = 20 + len(payload)
        header = struct.pack("!BBHHHBBH", 0x45, 0, length, 1, 0, _TTL, number, 0)
        whole = header + probe.saddr.packed + probe.daddr.packed
        whole = whole[:10] + struct.pack("!H", _checksum(whole)) + whole[12:]
        kind = 0x0800
    else:
        header = struct.pack("!IHBB", 6 << 28, len(payload), number, _TTL)
        whole = header + probe.saddr.packed + probe.daddr.packed
        kind = 0x86DD
    return target + SENDER + struct.pack("!H", kind) + whole + payload


def _transport(probe: Probe) -> tuple[int, bytes]:
    if probe.protocol == "tcp":
        bare = struct.pack("!HHLLBBHHH", probe.sport, probe.dport, 1, 0, 5 << 4, _SYN, 8192, 0, 0)
        return socket.IPPROTO_TCP, _with_checksum(probe, socket.IPPROTO_TCP, bare, 16)
    if probe.protocol == "udp":
        bare = struct.pack("!HHHH", probe.sport, probe.dport, 8, 0)
        return socket.IPPROTO_UDP, _with_checksum(probe, socket.IPPROTO_UDP, bare, 6)
    if isinstance(probe.saddr, IPv4Address):
        bare = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
        return socket.IPPROTO_ICMP, bare[:2] + struct.pack("!H", _checksum(bare)) + bare[4:]
    bare = struct.pack("!BBHHH", 128, 0, 0, 1, 1)
    return socket.IPPROTO_ICMPV6, _with_checksum(probe, socket.IPPROTO_ICMPV6, bare, 2)


def _with_checksum(probe: Probe, number: int, bare: bytes, place: int) -> bytes:
    pseudo = probe.saddr.packed + probe.daddr.packed + struct.pack("!II", len(bare), number)
    return bare[:place] + struct.pack("!H", _checksum(pseudo + bare)) + bare[place + 2 :]


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
