# SPDX-License-Identifier: GPL-2.0-or-later
"""The established TCP connections that are forwarded here, from the kernel's states.

Hard fact: the state of a TCP connection is three attributes deep (CTA_PROTOINFO, CTA_PROTOINFO_TCP,
CTA_PROTOINFO_TCP_STATE); 3 is established.
"""

import socket
import struct
from collections.abc import Collection

from agent.adapters.connections import count
from agent.adapters.nfnetlink import parse_attributes
from agent.adapters.state_table import StateTable

MAX_STATES = 200_000
"""Of more a list takes seconds, and some memory."""
_PROTOCOL_INFO, _TCP_INFO, _TCP_STATE, _ESTABLISHED = 4, 1, 1, 3
_LENGTH = struct.Struct("=I")
_HEADERS = 20


def read_established(own: Collection[bytes]) -> frozenset[bytes] | None:
    """Their tuples, but for those that begin or end at an address of the firewalls' `own`. None when there
    are too many states. Raises UnavailableError when the kernel does not list them."""
    if count() > MAX_STATES:
        return None
    found = set()
    for _, protocol, key, data, at in StateTable(own).each():
        if protocol == socket.IPPROTO_TCP:
            (length,) = _LENGTH.unpack_from(data, at)
            if _is_established(data[at + _HEADERS : at + length]):
                found.add(key)
    return frozenset(found)


def _is_established(attributes: bytes) -> bool:
    inside = attributes
    for wanted in (_PROTOCOL_INFO, _TCP_INFO, _TCP_STATE):
        inside = dict(parse_attributes(inside)).get(wanted, b"")
    return inside[:1] == bytes((_ESTABLISHED,))
