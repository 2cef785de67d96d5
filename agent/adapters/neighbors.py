# SPDX-License-Identifier: GPL-2.0-or-later
"""Who answers for an address on a link, asked of the kernel's own neighbor table: no packet is made here.

Hard facts (tried with kernel 6.18; read in 5.10)
* An entry that is "used" (NTF_USE) makes the kernel ask for its address by ARP or neighbor discovery, and
  one that is set to PROBE makes it ask again, by unicast, while it stays usable. Either needs CAP_NET_ADMIN
  and no socket for packets.
* That works for an IPv4 address of this node's own as well; the entry is then used for nothing else. What
  answers is another node that holds the same address. For IPv6 the kernel refuses such an answer.
* REACHABLE means answered since the last question; a question without an answer ends as FAILED.
"""

import socket
import struct
from dataclasses import dataclass

from agent.adapters.netlink_socket import CREATE, REPLACE, ROUTE, NetlinkSocket
from agent.adapters.nfnetlink import attribute, parse_attributes
from agent.model.pair import IPAddress

_NEW, _GET = 28, 30
_REACHABLE, _STALE, _DELAY, _PROBE = 0x02, 0x04, 0x08, 0x10
_USE = 0x01
_DESTINATION, _LINK_ADDRESS = 1, 2
_HEADER = struct.Struct("=BxHiHBB")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class _Entry:
    state: int
    mac: bytes


class Neighbors:
    def __init__(self) -> None:
        """Raises UnavailableError where the kernel opens no netlink socket."""
        self._socket = NetlinkSocket(ROUTE)

    def close(self) -> None:
        self._socket.close()

    def question(self, index: int, address: IPAddress) -> None:
        """Let the kernel ask the link with this index for `address`. Raises UnavailableError."""
        known = self._find(index, address)
        if known is None or not known.state & (_REACHABLE | _STALE | _DELAY):
            self._socket.tell(_NEW, CREATE, _entry(index, address, 0, _USE))
            return
        mac = attribute(_LINK_ADDRESS, known.mac)
        self._socket.tell(_NEW, REPLACE, _entry(index, address, _PROBE, 0) + mac)

    def answer(self, index: int, address: IPAddress) -> str | None:
        """The link-layer address that answered the last question. Raises UnavailableError."""
        known = self._find(index, address)
        return known.mac.hex(":") if known is not None and known.state & _REACHABLE else None

    def _find(self, index: int, address: IPAddress) -> _Entry | None:
        content = self._socket.ask(_GET, _entry(index, address, 0, 0))
        if content is None:
            return None
        state = _HEADER.unpack_from(content)[3]
        return _Entry(state, dict(parse_attributes(content[_HEADER.size :])).get(_LINK_ADDRESS, b""))


def _entry(index: int, address: IPAddress, state: int, flags: int) -> bytes:
    header = _HEADER.pack(_FAMILIES[address.version], 0, index, state, flags, 0)
    return header + attribute(_DESTINATION, address.packed)
