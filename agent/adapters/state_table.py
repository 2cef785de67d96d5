# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's table of states as a whole: listed, reported again, and on a backup deleted in part.

Hard facts
* An update of a state by ctnetlink that changes nothing makes the kernel report that state to all who
  listen, with everything about it. conntrackd takes that for a change and sends the state to its peer, whose
  conntrackd puts it in if it is not there. What conntrackd itself has put in, it does not send back. A state
  that is gone meanwhile is not created by that: an error comes back, and no other answer.
* A dump costs 1.4 us for each state, and Python some 3 more: so nothing here makes an object of a state. Its
  original tuple is the first attribute of a message and the reply's is the second; an address of it has a
  fixed place. The first attribute of a tuple is its addresses, the second begins with the protocol.
* The kernel lists a tuple in the same bytes on every machine of one byte order.
* The kernel can list the states of one protocol only (CTA_FILTER, Linux 5.8). But it lets no packet through
  on that processor until its buffer is full: with few that match, until it has seen the whole table, 0.16 us
  for each state. So everything is listed, 200 states for each buffer.
* conntrackd gives the copy as much time as the state has left when it is reported, not its whole timeout.
* A dump may miss what is moved while the table grows: a comparison is made again before it is believed.
* On a node that was primary, conntrackd has states of that time in its internal cache: their end here is
  told to the peer, whose conntrackd deletes the live ones. So nothing is deleted unless that cache is empty.
* A deletion is of whatever has that tuple then. To name the number of the state (CTA_ID) as well does not
  help: one that takes its place mostly gets the same number (seen on Linux 6.18).
"""

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b

from agent.adapters.nfnetlink import (
    CONNTRACK,
    DONE,
    DUMP,
    ERROR,
    NETFILTER,
    REQUEST,
    as_number,
    error_number,
    generic,
    message,
    messages,
)
from agent.core.census import HASH_BYTES
from agent.errors import UnavailableError

_NEW, _GET, _DELETE = CONNTRACK | 0, CONNTRACK | 1, CONNTRACK | 2
_NUMBER, _ERROR = struct.Struct("=I"), struct.Struct("=i")
_HEADERS = 20
"""Netlink's and netfilter's, before the attributes; the family is the first byte of the second."""
_FAMILY_AT, _KIND_AT = 16, 4
_BUFFER = 1 << 20
_TIMEOUT = 7
_PATIENCE_S = 5
_PROTOCOL_AT: dict[int, int] = {socket.AF_INET: 32, socket.AF_INET6: 56}
_SOURCE_AT: dict[int, slice] = {socket.AF_INET: slice(12, 16), socket.AF_INET6: slice(12, 28)}
"""Of the source address, in a tuple."""
_LOOPBACK = 127
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmpv6"}
"""Those that conntrackd replicates, see agent/render/conntrackd.py."""
BATCH = 100
"""The kernel answers each state that is gone with its message: all of these fit into a socket's buffer."""
Listed = tuple[int, int, bytes, bytes, int]
"""Family, protocol, original tuple; and where the whole message is: a buffer, and its place there."""


class StateTable:
    """`ignored`: the addresses of the firewalls themselves, packed, whose states are not replicated."""

    def __init__(self, ignored: Collection[bytes]) -> None:
        self._ignored = frozenset(ignored)

    def each(self, protocols: Collection[int] = PROTOCOLS.keys()) -> Iterator[Listed]:
        """Every state that is replicated, of these protocols. Raises UnavailableError when the kernel does
        not list them."""
        ignored = self._ignored
        with _open() as asked:
            _send(asked, message(_GET, REQUEST | DUMP, generic(socket.AF_UNSPEC)))
            while True:
                data = _receive(asked)
                at, end = 0, len(data)
                while at < end:
                    (length,) = _NUMBER.unpack_from(data, at)
                    kind = data[at + _KIND_AT] | data[at + _KIND_AT + 1] << 8
                    if kind in (ERROR, DONE):
                        _require_done(data, at)
                        return
                    family, first = data[at + _FAMILY_AT], at + _HEADERS
                    source = _SOURCE_AT.get(family)
                    if source is not None and (protocol := data[first + _PROTOCOL_AT[family]]) in protocols:
                        size = data[first] | data[first + 1] << 8
                        key = data[first : first + size]
                        reply = data[first + size + source.start : first + size + source.stop]
                        own = key[source]
                        local = family == socket.AF_INET and _LOOPBACK in (own[0], reply[0])
                        if own not in ignored and reply not in ignored and not local:
                            yield family, protocol, key, data, at
                    at += length + 3 & ~3

    def touch(self, which: Iterator[Listed], per_second: float) -> Iterator[Listed]:
        """Each of these is reported to whoever listens, at the most so many in a second. Yields them."""
        batch: list[bytes] = []
        done, begun_s = 0, time.monotonic()
        with _open() as telling:
            for one in which:
                family, _, key, _, _ = one
                batch.append(message(_NEW, REQUEST, generic(family, key)))
                if len(batch) == BATCH:
                    _tell(telling, batch)
                    done += len(batch)
                    batch.clear()
                    ahead_s = done / per_second - (time.monotonic() - begun_s)
                    if ahead_s > 0:
                        time.sleep(ahead_s)
                yield one
            _tell(telling, batch)


def delete(ending: Sequence[bytes]) -> None:
    """What deletion_of() says, all of it. That one of them is gone meanwhile is no fault."""
    with _open() as telling:
        for at in range(0, len(ending), BATCH):
            _tell(telling, ending[at : at + BATCH])


def deletion_of(one: Listed) -> bytes:
    """For delete()."""
    family, _, key, _, _ = one
    return message(_DELETE, REQUEST, generic(family, key))


def has_end(one: Listed, addresses: Collection[bytes]) -> bool:
    """Whether one of these, packed, is an end of it: it has sent the first packet, or answers."""
    family, _, key, data, at = one
    source, first = _SOURCE_AT[family], at + _HEADERS + len(key)
    return key[source] in addresses or data[first + source.start : first + source.stop] in addresses


def time_left_s(data: bytes, at: int) -> int:
    """Of a message of a dump. 0 where the kernel does not tell it, as of what is offloaded."""
    (length,) = _NUMBER.unpack_from(data, at)
    end, here = at + length, at + _HEADERS
    while here < end:
        size, kind = data[here] | data[here + 1] << 8, data[here + 2]
        if kind == _TIMEOUT:
            return as_number(data[here + 4 : here + 8])
        here += max(size, 4) + 3 & ~3
    return 0


def hash_of(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=HASH_BYTES).digest(), "little")


def _open() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _PATIENCE_S, 0))
        opened.bind((0, 0))
    except OSError as error:
        raise UnavailableError(f"cannot open a netlink socket: {error.strerror}") from error
    return opened


def _send(asked: socket.socket, data: bytes) -> None:
    try:
        asked.send(data)
    except OSError as error:
        raise UnavailableError(f"cannot ask for the states: {error.strerror}") from error


def _receive(asked: socket.socket) -> bytes:
    try:
        return asked.recv(_BUFFER)
    except OSError as error:
        raise UnavailableError(f"cannot read the states: {error.strerror}") from error


def _require_done(data: bytes, at: int) -> None:
    (code,) = _ERROR.unpack_from(data, at + 16)
    if code != 0:
        raise UnavailableError(f"cannot list the states: {os.strerror(-code)}")


def _require_gone(data: bytes) -> None:
    """That a state is gone is no fault."""
    for kind, _, _, content in messages(data):
        if kind == ERROR and error_number(content) not in (0, errno.ENOENT):
            reason = os.strerror(error_number(content))
            raise UnavailableError(f"the kernel does not do what it is told about a state: {reason}")


def _tell(telling: socket.socket, batch: Sequence[bytes]) -> None:
    if not batch:
        return
    try:
        telling.send(b"".join(batch))
        with contextlib.suppress(BlockingIOError):
            while True:
                _require_gone(telling.recv(_BUFFER, socket.MSG_DONTWAIT))
    except OSError as error:
        raise UnavailableError(f"cannot tell the kernel about states: {error.strerror}") from error
