# SPDX-License-Identifier: GPL-2.0-or-later
"""The comments of tables and chains, asked of the kernel.

Hard facts
* nft 1.0.6 leaves them out of its JSON, and writes them in `nft list`.
* The kernel keeps them as it got them, among other values for nft: each begins with a byte for its type and
  one for its size. Type 0 is the comment of a table and of a chain; another, such as nft's version, may be
  any bytes.
"""

import socket
from collections.abc import Iterator
from contextlib import closing

from agent.adapters.netlink_socket import NetlinkSocket
from agent.adapters.nfnetlink import (
    FAMILIES,
    NETFILTER,
    NFTABLES,
    as_text,
    generic,
    of_generic,
    parse_attributes,
)
from agent.errors import UnavailableError

_GET_TABLE, _GET_CHAIN = NFTABLES | 1, NFTABLES | 4
_TABLE, _TABLE_USERDATA, _CHAIN_USERDATA = 1, 6, 12
_COMMENT = 0


def read_quoting() -> frozenset[tuple[str, str]]:
    """The tables of this network namespace, family and name, with a quotation mark in their comment or in
    that of one of their chains. UnavailableError when the kernel does not report them."""
    try:
        with closing(NetlinkSocket(NETFILTER)) as asked:
            tables = _find_quoting(asked, _GET_TABLE, _TABLE_USERDATA)
            return frozenset((*tables, *_find_quoting(asked, _GET_CHAIN, _CHAIN_USERDATA)))
    except UnavailableError as error:
        raise UnavailableError(f"cannot read the comments of tables: {error.message}", error.hint) from error


def _find_quoting(asked: NetlinkSocket, message_type: int, userdata: int) -> list[tuple[str, str]]:
    found = []
    for family, body in map(of_generic, asked.each(message_type, generic(socket.AF_UNSPEC))):
        attributes = dict(parse_attributes(body))
        if is_quoting(attributes.get(userdata, b"")):
            found.append((FAMILIES.get(family, str(family)), as_text(attributes.get(_TABLE))))
    return found


def is_quoting(userdata: bytes) -> bool:
    """Of a table or a chain."""
    return any(b'"' in value for value_type, value in _values(userdata) if value_type == _COMMENT)


def _values(userdata: bytes) -> Iterator[tuple[int, bytes]]:
    while len(userdata) >= 2:
        value_type, size = userdata[:2]
        yield value_type, userdata[2 : 2 + size]
        userdata = userdata[2 + size :]
