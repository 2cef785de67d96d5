# SPDX-License-Identifier: GPL-2.0-or-later
"""The interfaces of this network namespace with their links and addresses, by netlink.

Hard facts
* IFF_UP is what the administrator wants, IFF_LOWER_UP whether there is a carrier; of an interface that is
  down the kernel does not know its carrier.
* Statistics are half of what is reported of each link unless one asks to leave them out.
"""

import socket
import struct
from ipaddress import IPv4Interface, IPv6Interface

from agent.adapters.netlink_socket import ROUTE, NetlinkSocket
from agent.adapters.nfnetlink import as_text, attribute, parse_attributes
from agent.core.links import Link
from agent.model.pair import IPInterface

_GET_LINK, _GET_ADDRESS = 18, 22
_GROUP_LINK, _GROUPS_ADDRESS = 0x1, 0x10 | 0x100
_NAME, _INFO, _INFO_KIND, _MASK = 3, 18, 1, 29
_ADDRESS, _LOCAL = 1, 2
_SKIP_STATISTICS = 1 << 3
_UP, _LOOPBACK, _LOWER_UP = 0x1, 0x8, 0x10000
_LINK = struct.Struct("=BxHiII")
_ADDR = struct.Struct("=BBBBI")


class LinkWatch(NetlinkSocket):
    """Becomes readable when a link changes. Raises UnavailableError where the kernel does not report it."""

    def __init__(self) -> None:
        super().__init__(ROUTE, _GROUP_LINK)


class AddressEvents(NetlinkSocket):
    """Becomes readable when an address comes or goes. Raises as LinkWatch."""

    def __init__(self) -> None:
        super().__init__(ROUTE, _GROUPS_ADDRESS)


class Links:
    def __init__(self) -> None:
        """Raises UnavailableError where cannot open a netlink socket."""
        self._socket = NetlinkSocket(ROUTE)

    def close(self) -> None:
        self._socket.close()

    def read(self) -> tuple[Link, ...]:
        """All interfaces as they are now. Raises UnavailableError."""
        asked = _LINK.pack(0, 0, 0, 0, 0) + attribute(_MASK, struct.pack("=I", _SKIP_STATISTICS))
        links = self._socket.dump(_GET_LINK, asked)
        addresses: dict[int, list[IPInterface]] = {}
        for content in self._socket.dump(_GET_ADDRESS, _ADDR.pack(0, 0, 0, 0, 0)):
            index, address = _address(content)
            if address is not None:
                addresses.setdefault(index, []).append(address)
        return tuple(_link(content, addresses) for content in links)


def local_addresses() -> frozenset[bytes]:
    """Of this network namespace, packed. Raises UnavailableError."""
    links = Links()
    try:
        return frozenset(address.ip.packed for link in links.read() for address in link.addresses)
    finally:
        links.close()


def _link(content: bytes, addresses: dict[int, list[IPInterface]]) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(content)
    attributes = dict(parse_attributes(content[_LINK.size :]))
    kind = dict(parse_attributes(attributes.get(_INFO, b""))).get(_INFO_KIND, b"")
    return Link(
        name=as_text(attributes.get(_NAME)),
        index=index,
        kind="loopback" if flags & _LOOPBACK else as_text(kind),
        up=bool(flags & _UP),
        carrier=bool(flags & _LOWER_UP),
        addresses=tuple(addresses.get(index, ())),
    )


def _address(content: bytes) -> tuple[int, IPInterface | None]:
    family, length, _, _, index = _ADDR.unpack_from(content)
    attributes = dict(parse_attributes(content[_ADDR.size :]))
    # with a peer (point to point) the first is the peer's, the second our own
    raw = attributes.get(_LOCAL) or attributes.get(_ADDRESS) or b""
    if (family, len(raw)) == (socket.AF_INET, 4):
        return index, IPv4Interface((raw, length))
    if (family, len(raw)) == (socket.AF_INET6, 16):
        return index, IPv6Interface((raw, length))
    return index, None
