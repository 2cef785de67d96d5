# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to the kernel by netlink, in our own few lines: what pyroute2 makes of a dump of links costs a
hundred times as much as what is asked for here.

Hard facts (kernel 5.10 and later)
* An answer comes from the kernel within the call that asks, so a wait for it means that something is wrong.
* A dump during which there was a change says so (NLM_F_DUMP_INTR) and is not whole.
* A message of which NLM_F_ACK asks is answered with an error number, 0 for success.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from agent.adapters.nfnetlink import (
    ACK,
    DONE,
    DUMP,
    ERROR,
    INTERRUPTED,
    OVERRUN,
    REQUEST,
    error_number,
    message,
    messages,
)
from agent.errors import UnavailableError

ROUTE = 0
"""The part of the kernel (NETLINK_ROUTE)."""
CREATE, REPLACE = 0x400, 0x100
_BUFFER = 1 << 18
_PATIENCE_S = 2
MAX_ANSWER = 16 << 20
"""A dump that is larger than this is not read to its end."""


class NetlinkSocket:
    """Asks one thing at a time. With `groups` it also becomes readable when something of them changes."""

    def __init__(self, part: int, groups: int = 0) -> None:
        """Raises UnavailableError where the kernel gives none."""
        try:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            self._socket = socket.socket(socket.AF_NETLINK, kind, part)
            self._socket.bind((0, groups))
            patience = struct.pack("@ll", _PATIENCE_S, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        except OSError as error:
            raise UnavailableError(f"cannot open a netlink socket: {error.strerror}") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> None:
        """Takes all notices off; an overflow means only that there was much."""
        while True:
            try:
                self._socket.recv(_BUFFER, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise UnavailableError(f"netlink: {error.strerror}") from error

    def dump(self, message_type: int, body: bytes) -> list[bytes]:
        """Everything of a type: what follows the header of each message. UnavailableError when it is not
        whole."""
        found: list[bytes] = []
        size = 0
        for content in self.each(message_type, body):
            size += len(content)
            if size > MAX_ANSWER:
                raise UnavailableError(f"netlink: an answer of more than {MAX_ANSWER >> 20} MiB")
            found.append(content)
        return found

    def each(self, message_type: int, body: bytes) -> Iterator[bytes]:
        """dump(), one after the other, however many there are."""
        self._send(message_type, REQUEST | DUMP, body)
        while True:
            for answer, flags, _, content in messages(self._receive()):
                if flags & INTERRUPTED:
                    raise UnavailableError("netlink: the data changed while it was read")
                if answer == DONE and not error_number(content):
                    return
                if answer in (DONE, ERROR, OVERRUN):
                    raise UnavailableError(f"netlink: {os.strerror(error_number(content))}")
                yield content

    def ask(self, message_type: int, body: bytes) -> bytes | None:
        """One thing; None when it is not there."""
        self._send(message_type, REQUEST, body)
        for answer, _, _, content in messages(self._receive()):
            if answer != ERROR:
                return content
        return None

    def tell(self, message_type: int, flags: int, body: bytes) -> int:
        """Something to be done; the number of the error when the kernel refuses, or 0."""
        self._send(message_type, REQUEST | ACK | flags, body)
        answers = messages(self._receive())
        return next((error_number(content) for answer, _, _, content in answers if answer == ERROR), 0)

    def _send(self, message_type: int, flags: int, body: bytes) -> None:
        self.drain()  # what a broken-off question has left
        try:
            self._socket.send(message(message_type, flags, body))
        except OSError as error:
            raise UnavailableError(f"netlink: {error.strerror}") from error

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_BUFFER)
        except OSError as error:
            reason = "the kernel does not answer" if error.errno == errno.EAGAIN else error.strerror
            raise UnavailableError(f"netlink: {reason}") from error
