# SPDX-License-Identifier: GPL-2.0-or-later
"""Says when any rule of this network namespace changes, and what another program does to our
tables that may have opened them.

Hard facts (kernel 6.18, read in older ones back to 5.10)
* NFNLGRP_NFTABLES carries every change, in milliseconds. All of a transaction is in force when the first of
  it is reported, a removed table after all that was in it; what is too much for the socket is thrown away
  and leaves an overflow.
* A message carries the port of the netlink socket that has made the change. libnftables gets one from the
  kernel with its first command, and sometimes opens another socket: so ours are looked up among our
  descriptors. The pid that NFT_MSG_NEWGEN carries is of the outermost namespace: no use in a container.
* A table that is put to sleep (`flags dormant`) keeps its chains and does nothing.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from agent.adapters.nfnetlink import (
    NETFILTER,
    NFTABLES,
    as_number,
    as_text,
    messages,
    of_generic,
    parse_attributes,
)
from agent.errors import UnavailableError
from agent.rules.holes import UNKNOWN, Deed, TableChange
from agent.rules.objects import TABLES

_NFNLGRP_NFTABLES = 7
_NEW_TABLE, _DELETED_TABLE = NFTABLES, NFTABLES | 2
_NEW_CHAIN, _DELETED_CHAIN = NFTABLES | 3, NFTABLES | 5
_NEW_RULE, _DELETED_RULE = NFTABLES | 6, NFTABLES | 8
_TABLE, _TABLE_FLAGS = 1, 2
_CHAIN_NAME, _CHAIN_POLICY, _RULE_CHAIN = 3, 5, 2
_NAME_OF_CHAIN = {
    _NEW_CHAIN: _CHAIN_NAME,
    _DELETED_CHAIN: _CHAIN_NAME,
    _NEW_RULE: _RULE_CHAIN,
    _DELETED_RULE: _RULE_CHAIN,
}
_DEEDS = {
    _DELETED_TABLE: Deed.REMOVED,
    _DELETED_CHAIN: Deed.REMOVED,
    _DELETED_RULE: Deed.EMPTIED,
}
_KINDS = frozenset({_NEW_TABLE, *_NAME_OF_CHAIN, *_DEEDS})
"""Elements come and go all the time."""
_OURS = {name.encode() + b"\0": name for name in TABLES}
_INET = _ACCEPT = _DORMANT = 1
AT_ONCE = 64


class RulesWatch:
    def __init__(self) -> None:
        """Raises UnavailableError where the kernel does not report it."""
        self._ports: frozenset[int] = frozenset()
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
            self._socket.setblocking(False)
            self._socket.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        except OSError as error:
            raise UnavailableError(f"cannot watch the rules: {error.strerror}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> frozenset[TableChange]:
        """Takes what waits off the socket, AT_ONCE messages at the most. What other programs did to our
        tables; UNKNOWN is among it when there was more than the socket holds."""
        changes: set[TableChange] = set()
        strangers: set[int] = set()
        for _ in range(AT_ONCE):
            try:
                batch = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise UnavailableError(f"cannot watch the rules: {error.strerror}") from error
                changes.add(UNKNOWN)
                continue
            for port, change in _of_our_tables(batch):
                if change not in changes and not self._is_own(port, strangers):
                    changes.add(change)
        return frozenset(changes)

    def _is_own(self, port: int, strangers: set[int]) -> bool:
        """`strangers` are the ports that were looked up since this drain began."""
        if port not in self._ports and port not in strangers:
            self._ports = frozenset(_own_ports())
            strangers.add(port)
        return port in self._ports

    def close(self) -> None:
        self._socket.close()


def _of_our_tables(batch: bytes) -> Iterator[tuple[int, TableChange]]:
    """The changes of our tables, each after the netlink port of its sender."""
    for message_type, _, port, content in messages(batch):
        family, body = of_generic(content)
        if message_type in _KINDS and family == _INET:
            attributes = dict(parse_attributes(body))
            table = _OURS.get(attributes.get(_TABLE, b""))
            if table is not None:
                yield port, _change(message_type, table, attributes)


def _change(message_type: int, table: str, attributes: dict[int, bytes]) -> TableChange:
    deed = _DEEDS.get(message_type, Deed.OTHER)
    if message_type == _NEW_TABLE and as_number(attributes.get(_TABLE_FLAGS)) & _DORMANT:
        deed = Deed.DORMANT
    if message_type == _NEW_CHAIN and as_number(attributes.get(_CHAIN_POLICY)) == _ACCEPT:
        deed = Deed.OPENED
    chain = attributes.get(_NAME_OF_CHAIN[message_type]) if message_type in _NAME_OF_CHAIN else None
    return TableChange(table, None if chain is None else as_text(chain), deed)


def _own_ports() -> Iterator[int]:
    """Of this process's sockets to netfilter."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it is closed by now
            yield from _port(os.dup(int(name)))


def _port(descriptor: int) -> Iterator[int]:
    """Closes `descriptor`."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)  # of something else
        return
    with found:
        if (found.family, found.proto) == (socket.AF_NETLINK, NETFILTER):
            yield found.getsockname()[0]
