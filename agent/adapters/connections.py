# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's connections, and the end of exactly those that are named.

Hard facts
* conntrack(8) deletes by filters: one process for each connection, and whatever fits the filter goes. By
  netlink a state is deleted by its tuple and its id, so that a new one in its place is safe.
* conntrackd reports a deleted state to the peer like any that ends, and the peer's copy goes too.
* A connection that was announced (FTP's data) carries the status bit `expected`, and the tuple of the one
  that has announced it; it came in as related. It lives on when that one ends.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

from agent.adapters.netlink_socket import NetlinkSocket
from agent.adapters.nfnetlink import (
    CONNTRACK,
    NETFILTER,
    as_number,
    attribute,
    generic,
    nest,
    of_generic,
    parse_attributes,
)
from agent.errors import UnavailableError
from agent.rules.connections import ConntrackState, Ends

_GET, _DELETE = CONNTRACK | 1, CONNTRACK | 2
_ORIG, _REPLY, _STATUS, _ID, _MASTER, _ZONE = 1, 2, 3, 12, 14, 18
_EXPECTED = 0x1
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")


def count() -> int:
    """How many connections the kernel has. 0 where it does not track any."""
    try:
        return int(_COUNT.read_text(encoding="ascii"))
    except OSError:
        return 0


def read_states() -> list[ConntrackState]:
    """Every connection of this network namespace. UnavailableError when the kernel does not report them."""
    try:
        with closing(NetlinkSocket(NETFILTER)) as asked:
            replies = asked.each(_GET, generic(socket.AF_UNSPEC))
            return [state for content in replies if (state := _state(*of_generic(content))) is not None]
    except UnavailableError as error:
        raise UnavailableError(f"cannot read the connections: {error.message}", "run as root") from error


def end_states(states: Iterable[ConntrackState]) -> int:
    """Deletes these states and no other. Returns how many were still there."""
    ended = 0
    with closing(NetlinkSocket(NETFILTER)) as asked:
        for state in states:
            code = asked.tell(_DELETE, 0, generic(state.family, state.key))
            if code not in (0, errno.ENOENT):
                raise UnavailableError(f"cannot end a connection: {os.strerror(code)}")
            ended += code == 0
    return ended


def _state(family: int, body: bytes) -> ConntrackState | None:
    """None for what has no addresses."""
    attributes = dict(parse_attributes(body))
    original, reply = _ends(attributes.get(_ORIG, b"")), _ends(attributes.get(_REPLY, b""))
    if original is None or reply is None:
        return None
    saddr, daddr, protocol, sport, dport = original
    named = (
        attribute(attribute_type, attributes[attribute_type])
        for attribute_type in (_ID, _ZONE)
        if attribute_type in attributes
    )
    key = b"".join((nest(_ORIG, attributes[_ORIG]), *named))
    master = _ends(attributes.get(_MASTER, b""))
    expected = bool(as_number(attributes.get(_STATUS)) & _EXPECTED)
    return ConntrackState(
        family, key, saddr, daddr, protocol, sport, dport, reply[0], reply[3], expected, master
    )


def _ends(data: bytes) -> Ends | None:
    """Source, target, protocol and ports; for ICMP the type is the port of the target, and of the reply's
    source too."""
    attributes = dict(parse_attributes(data))
    addresses, protocol = (
        dict(parse_attributes(attributes.get(1, b""))),
        dict(parse_attributes(attributes.get(2, b""))),
    )
    source, target = addresses.get(1) or addresses.get(3), addresses.get(2) or addresses.get(4)
    if source is None or target is None or 1 not in protocol:
        return None
    icmp_type = protocol.get(5) or protocol.get(8)
    ports = [struct.unpack("!H", protocol.get(place, b"\0\0"))[0] for place in (2, 3)]
    sport, dport = (0, icmp_type[0]) if icmp_type else ports
    return ip_address(source), ip_address(target), protocol[1][0], sport, dport
