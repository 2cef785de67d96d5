# SPDX-License-Identifier: GPL-2.0-or-later
"""The three things the lab asks rtnetlink itself: links up or down at once, who holds which address, tell me
of changes.

Everything that is not urgent goes through `ip -batch`. This much is written out because a power cut has to
take all links of a node in one system call, and because a subscription needs a socket that lives in the
node's namespace.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from hafw_lab.kernel.namespaces import inside_network

Address = IPv4Address | IPv6Address

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")

_REQUEST, _ACK, _DUMP = 1, 4, 0x300
_ERROR, _DONE = 2, 3
_NEW_LINK, _SET_LINK, _NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 16, 19, 20, 21, 22
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP = 1
_AF_BRIDGE = 7
_IFLA_PROTINFO, _NESTED, _IFLA_BRPORT_STATE, _PORT_DISABLED = 12, 0x8000, 1, 0
_GROUP_IPV4_ADDRESS, _GROUP_IPV6_ADDRESS = 0x10, 0x100


def _messages(packet: bytes) -> Iterator[tuple[int, bytes]]:
    while len(packet) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(packet)
        if not _HEADER.size <= length <= len(packet):
            return
        yield kind, packet[_HEADER.size : length]
        packet = packet[(length + 3) & ~3 :]


def _address_in(body: bytes) -> Address | None:
    found: dict[int, bytes] = {}
    rest = body[_ADDRESS.size :]
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if not _ATTRIBUTE.size <= length <= len(rest):
            break
        found[kind] = rest[_ATTRIBUTE.size : length]
        rest = rest[(length + 3) & ~3 :]
    raw = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    return ip_address(raw) if raw and len(raw) in (4, 16) else None


class LinkSwitch:
    """Cuts and repairs links of the current network namespace, any number of them in one system call."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.settimeout(5)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def set(self, names: Sequence[str], *, up: bool) -> None:
        """Raises OSError for a link that is not there."""
        flags = _IFF_UP if up else 0
        self._send(_NEW_LINK, [_LINK.pack(0, 0, _index(name), flags, _IFF_UP) for name in names], names)

    def block(self, names: Sequence[str]) -> None:
        """No frame passes these bridge ports any more, and their other ends do not notice. Those that are
        down or gone pass none anyway. Raises OSError."""
        state = _ATTRIBUTE.pack(_ATTRIBUTE.size + 1, _IFLA_BRPORT_STATE) + bytes([_PORT_DISABLED, 0, 0, 0])
        nested = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(state), _IFLA_PROTINFO | _NESTED) + state
        there = [index for name in names if (index := _find_index(name)) is not None]
        bodies = [_LINK.pack(_AF_BRIDGE, 0, index, 0, 0) + nested for index in there]
        # the kernel refuses to change a port that is down, and changes the others all the same
        self._send(_SET_LINK, bodies, names, ignored=(errno.ENETDOWN, errno.ENODEV))

    def _send(
        self, kind: int, bodies: Sequence[bytes], names: Sequence[str], ignored: Sequence[int] = ()
    ) -> None:
        if not bodies:
            return
        packet = b"".join(
            _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _ACK, 0, 0) + body for body in bodies
        )
        self._socket.send(packet)
        refused = 0
        missing = len(bodies)
        while missing:  # to the last one, or the next request would take these for its answers
            for answer, body in _messages(self._socket.recv(65536)):
                if answer == _ERROR:
                    missing -= 1
                    number = -struct.unpack_from("=i", body)[0]
                    refused = refused or (0 if number in ignored else number)
        if refused:
            raise OSError(refused, os.strerror(refused), ", ".join(names))


def _find_index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _index(name: str) -> int:
    found = _find_index(name)
    if found is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return found


class AddressWatch:
    """The addresses of one network namespace, kept current by the kernel's own notices."""

    def __init__(self, network: int) -> None:
        with inside_network(network):
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                socket.NETLINK_ROUTE,
            )
        self._socket.bind((0, _GROUP_IPV4_ADDRESS | _GROUP_IPV6_ADDRESS))
        self.addresses: set[Address] = set()
        self._ask()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _ask(self) -> None:
        # Notices that arrive while the answer is on its way are newer or equal, and applied in the kernel's
        # order.
        self.addresses.clear()
        self._socket.send(
            _HEADER.pack(_HEADER.size + _ADDRESS.size, _GET_ADDRESS, _REQUEST | _DUMP, 1, 0)
            + bytes(_ADDRESS.size)
        )

    def read(self) -> None:
        """Take in what has arrived; call when the descriptor is readable."""
        while True:
            try:
                packet = self._socket.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._ask()
                continue
            for kind, body in _messages(packet):
                self._apply(kind, body)

    def _apply(self, kind: int, body: bytes) -> None:
        if kind not in (_NEW_ADDRESS, _DEL_ADDRESS):
            return
        address = _address_in(body)
        if address is None:
            return
        if kind == _NEW_ADDRESS:
            self.addresses.add(address)
        else:
            self.addresses.discard(address)
