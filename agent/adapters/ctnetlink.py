# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's connection tracking by netlink, for the two things that conntrack(8) cannot do.

Hard facts (kernel 6.18, read in older ones back to 5.10)
* When a helper changes the length of a packet (FTP's PORT through NAT), every later segment of that
  connection must be moved by the difference. The kernel keeps it with the connection and reports it to
  nobody: neither an event nor `conntrackd -R` carries it to the peer, where the next command then arrives as
  garbage (`500 "TR" not understood`).
* An update that changes nothing raises an event that carries everything, the difference among it. conntrackd
  replicates it then, in both modes. `conntrack -U` does not send such an update.
* Such a change always comes with an expectation, which is announced microseconds before it.
* An expectation that the first packet of a connection makes is announced before that connection, which is
  known only when its packet has passed all hooks: TFTP, and a SIP call that begins with INVITE.
* An event that a program has caused has that program's port; one of the kernel's own has 0. So the backup's
  conntrackd, which puts the same expectations in, is no reason to act.
* A kernel from before d1ca60efc53d (5.17; 5.15.23, 5.10.100) forgets the helper of a connection that a
  program puts in with NAT. `conntrack -I` has no word for a helper.
"""

import errno
import math
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agent.adapters.nfnetlink import (
    ACK,
    CONNTRACK,
    DONE,
    ERROR,
    EXPECTATIONS,
    NETFILTER,
    REQUEST,
    Message,
    attribute,
    error_number,
    generic,
    message,
    messages,
    nest,
    of_generic,
    parse_attributes,
)
from agent.errors import UnavailableError

_GROUP_EXPECT_NEW = 4
_MSG_NEW, _MSG_GET = 0, 1
_EXCLUSIVE, _CREATE = 0x200, 0x400
_TUPLE_ORIG, _TUPLE_REPLY, _PROTO_INFO, _STATUS, _HELP, _NAT_SRC, _TIMEOUT = 1, 2, 4, 3, 5, 6, 7
_EXPECT_MASTER, _EXPECT_TUPLE = 1, 2
_ASSURED_WITH_REPLY = 0x2 | 0x4 | 0x8  # and confirmed, which the kernel insists on
_ESTABLISHED = 3
_PATIENCE_S = 1.0
AT_ONCE = 32
_SO_MEMINFO = 55
_MEMORY = struct.Struct("=9I")
_NONE: Message = (ERROR, 0, 0, b"")
"""An answer that is no message is a refusal."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An expectation that the kernel itself has made: its own tuple, and that of the connection it is of."""

    family: int
    protocol: int
    """Of the connection that has announced it."""
    master: bytes
    expected: bytes


class Conntrack:
    """One netlink socket. Raises UnavailableError where the kernel gives none, or not to us."""

    def __init__(self, *, expectations: bool = False, limit_s: float = math.inf) -> None:
        """With `expectations` every new one can be read by announced(). After `limit_s` no answer is waited
        for any more."""
        self._end_s = time.monotonic() + limit_s
        self.taken = 0
        """How many messages the last announced() has read, and how many were lost before they could be."""
        self.lost = 0
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETFILTER)
            self._socket.bind((0, 1 << (_GROUP_EXPECT_NEW - 1) if expectations else 0))
        except OSError as error:
            raise UnavailableError(f"cannot talk to connection tracking: {error.strerror}") from error

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self._end_s

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def announced(self) -> set[Announced]:
        """Takes AT_ONCE messages off the socket at the most."""
        found: set[Announced] = set()
        self.taken = 0
        while self.taken < AT_ONCE:
            try:
                batch = self._socket.recv(1 << 13)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise UnavailableError(f"cannot watch expectations: {error.strerror}") from error
                self.lost = self._count_lost()
                batch = b""
            self.taken += 1
            found |= set(_announced(batch))
        return found

    def _count_lost(self) -> int:
        """The kernel counts for each socket what it found no room for."""
        return int(_MEMORY.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY.size))[-1])

    def tell_again(self, family: int, connection: bytes) -> None:
        """An update that changes nothing: everything about the connection is reported to all listeners. A
        connection that is gone meanwhile needs none."""
        self._send(CONNTRACK | _MSG_NEW, family, nest(_TUPLE_ORIG, connection), REQUEST)

    def keeps_helper(self) -> bool:
        """Puts an FTP connection with NAT into this network namespace and asks for it again: is the helper
        still there? UnavailableError when the kernel refuses."""
        flags = REQUEST | ACK | _CREATE | _EXCLUSIVE
        put_in = self.ask(CONNTRACK | _MSG_NEW, socket.AF_INET, _TEST_CONNECTION, flags)
        answer = self.ask(CONNTRACK | _MSG_GET, socket.AF_INET, _TEST_TUPLE, REQUEST)
        if put_in is None or answer is None:
            raise UnavailableError(
                "connection tracking refuses a test connection", "is its FTP helper there?"
            )
        return _HELP in dict(parse_attributes(answer))

    def ask(self, message_type: int, family: int, body: bytes, flags: int) -> bytes | None:
        """The attributes of the answer; None when the kernel refuses. UnavailableError when it is silent."""
        self._send(message_type, family, body, flags)
        answer, _, _, content = next(messages(self._receive()), _NONE)
        refused = answer == ERROR and error_number(content)
        return None if refused else of_generic(content)[1]

    def dump(self, message_type: int, flags: int) -> Iterator[tuple[int, bytes]]:
        """Everything of a type, as (family, attributes). UnavailableError when it breaks off."""
        self._send(message_type, socket.AF_UNSPEC, b"", flags)
        while True:
            for answer, _, _, content in messages(self._receive()):
                if answer in (DONE, ERROR):
                    if code := error_number(content):
                        raise UnavailableError(f"cannot list connection tracking: {os.strerror(code)}")
                    return
                yield of_generic(content)

    def _send(self, message_type: int, family: int, body: bytes, flags: int) -> None:
        try:
            self._socket.send(message(message_type, flags, generic(family, body)))
        except OSError as error:
            if error.errno not in (
                errno.EAGAIN,
                errno.ENOBUFS,
            ):  # the next expectation reports the same again
                raise UnavailableError(f"cannot talk to connection tracking: {error.strerror}") from error

    def _receive(self) -> bytes:
        left_s = min(_PATIENCE_S, max(0.0, self._end_s - time.monotonic()))
        if not select.select([self._socket], [], [], left_s)[0]:
            raise UnavailableError("connection tracking does not answer")
        try:
            return self._socket.recv(1 << 16)
        except OSError as error:
            raise UnavailableError(f"cannot read connection tracking: {error.strerror}") from error


def _announced(batch: bytes) -> Iterator[Announced]:
    for message_type, _, port, content in messages(batch):
        if message_type == EXPECTATIONS | _MSG_NEW and port == 0:
            family, body = of_generic(content)
            found = dict(parse_attributes(body))
            master, expected = found[_EXPECT_MASTER], found[_EXPECT_TUPLE]
            yield Announced(family, _protocol(master), master, expected)


def _protocol(connection: bytes) -> int:
    return dict(parse_attributes(dict(parse_attributes(connection))[2]))[1][0]


def _tuple(attribute_type: int, source: str, target: str, ports: tuple[int, int]) -> bytes:
    ends = (attribute(number, socket.inet_aton(end)) for number, end in ((1, source), (2, target)))
    both = (attribute(number, struct.pack("!H", port)) for number, port in ((2, ports[0]), (3, ports[1])))
    return nest(attribute_type, nest(1, *ends), nest(2, attribute(1, bytes([socket.IPPROTO_TCP])), *both))


# addresses that RFC 5737 keeps for documentation, translated to a third one
_TEST_TUPLE = _tuple(_TUPLE_ORIG, "192.0.2.10", "198.51.100.3", (40_000, 21))
_TEST_CONNECTION = b"".join(
    (
        _TEST_TUPLE,
        _tuple(_TUPLE_REPLY, "198.51.100.3", "192.0.2.10", (21, 40_000)),
        attribute(_STATUS, struct.pack("!I", _ASSURED_WITH_REPLY)),
        attribute(_TIMEOUT, struct.pack("!I", 60)),
        nest(_PROTO_INFO, nest(1, attribute(1, bytes([_ESTABLISHED])))),
        nest(_NAT_SRC, attribute(1, socket.inet_aton("203.0.113.100"))),
        nest(_HELP, attribute(1, b"ftp\0")),
    )
)
