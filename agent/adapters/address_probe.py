# SPDX-License-Identifier: GPL-2.0-or-later
"""Does the other node have a virtual address? Asked on its link, as a host would ask.

Hard facts (kernel 6.18)
* An ARP request to one link-layer address alone is answered by that host if it has the address, and costs no
  other host anything. The kernel answers without a look at the rules.
* A neighbor solicitation goes to a group that hardly any host but the holder listens to. A raw socket gets
  the answer whatever the kernel makes of it, and writes the checksum by itself. The hop limit must be 255.
* A host is never asked for an address by itself: only what another one has can be asked for.
* An interface that is down refuses what is sent by it; that is as good as no answer.
"""

import contextlib
import socket
import struct
from dataclasses import dataclass

from agent.core.drill import VipOnLink
from agent.errors import UnavailableError
from agent.file_cures import cure_of
from agent.model.pair import IPAddress

_ETHERTYPE = 0x0806
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
_SOLICITATION, _ADVERTISEMENT = 135, 136
_TARGET = slice(8, 24)
_HOP_LIMIT = 255
_ICMP6_FILTER = 1
_GROUP = bytes.fromhex("ff0200000000000000000001ff")
"""Before the last three bytes of the address."""
_BUFFER = 2048
MAC_BYTES = 6


@dataclass(frozen=True, slots=True)
class AddressQuestion:
    """`source`: an address of this node on that link. `mac`: of the other node there."""

    place: VipOnLink
    source: IPAddress
    mac: bytes


class AddressProbe:
    def __init__(self, question: AddressQuestion) -> None:
        """Raises UnavailableError."""
        place = question.place
        self.place, self._mac = place, question.mac
        self._wanted = place.address.packed
        try:
            self._index = socket.if_nametoindex(place.interface)
            own = _own_mac(place.interface)
            if place.address.version == 4:
                self._socket = _open_arp(place.interface)
                self._words, self._target = _request(question, own), None
            else:
                self._socket = _open_icmp6(question, self._index)
                self._words = _solicitation(self._wanted, own)
                self._target = socket.inet_ntop(socket.AF_INET6, _GROUP + self._wanted[-3:])
        except OSError as error:
            text = f"cannot ask for {place}: {error.strerror or error}"
            raise UnavailableError(text, cure_of(error)) from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def ask(self) -> None:
        with contextlib.suppress(OSError):
            if self._target is None:
                self._socket.send(self._words)
            else:
                self._socket.sendto(self._words, (self._target, 0, 0, self._index))

    def take_answers(self) -> int:
        """Those of the other node that have come."""
        count = 0
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except OSError:  # there are no more, or the link is down
                return count
            count += self._is_answer(data)

    def _is_answer(self, data: bytes) -> bool:
        if self._target is not None:
            return len(data) >= _TARGET.stop and data[0] == _ADVERTISEMENT and data[_TARGET] == self._wanted
        if len(data) < _FRAME.size:
            return False
        _, _, _, _, _, _, _, kind, mac, address, _, _ = _FRAME.unpack_from(data)
        return bool(kind == _REPLY and mac == self._mac and address == self._wanted)


def _own_mac(interface: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as opened:
        opened.bind((interface, 0))
        found: bytes = opened.getsockname()[4]
    if len(found) != MAC_BYTES:
        raise OSError(f"{interface} is not an Ethernet link")
    return found


def _open_arp(interface: str) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_PACKET, kind, 0)  # takes nothing before it is bound
    try:
        opened.bind((interface, _ETHERTYPE))
    except OSError:
        opened.close()
        raise
    return opened


def _request(question: AddressQuestion, own: bytes) -> bytes:
    place = question.place
    return _FRAME.pack(
        *(question.mac, own, _ETHERTYPE),
        *(1, 0x0800, MAC_BYTES, 4, _REQUEST),
        *(own, question.source.packed, bytes(MAC_BYTES), place.address.packed),
    )


def _open_icmp6(question: AddressQuestion, index: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
    try:
        opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _only(_ADVERTISEMENT))
        opened.setsockopt(
            socket.SOL_SOCKET, socket.SO_BINDTODEVICE, question.place.interface.encode() + b"\0"
        )
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        scope = index if question.source.is_link_local else 0
        opened.bind((str(question.source), 0, 0, scope))
    except OSError:
        opened.close()
        raise
    return opened


def _only(kind: int) -> bytes:
    """A filter of ICMPv6: what has its bit set is kept away."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("=8I", *words)


def _solicitation(address: bytes, own: bytes) -> bytes:
    return struct.pack("!BBHI16sBB6s", _SOLICITATION, 0, 0, 0, address, 1, 1, own)
