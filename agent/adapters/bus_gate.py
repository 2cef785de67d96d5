# SPDX-License-Identifier: GPL-2.0-or-later
"""Stands between the system bus and the library that speaks to it: only the words of the bus itself and of
keepalived's owner reach the library. Of all else the header is read, and the rest thrown away unread.

Hard facts (dbus-daemon 1.14; dbus-next 0.2.3; dbus-fast 1.84 and 5.0)
* Any local user may send any signal to our unique name, past every match rule, and as large as the bus takes
  them (32 MiB), as often as that user likes.
* The libraries take a whole message into memory and build a Python object for each of its values before
  the sender can be looked up: a signal of 31 MB holds the loop for 8 seconds. Each signature that they
  read is kept for good.
* dbus-next reads its connection through a buffer, later dbus-fast from the socket itself: nothing of theirs
  could be put in between that serves both. So they connect to us.
* A reader that leaves its messages with the bus makes it drop those of all senders, keepalived's too: all is
  read at once. Small ones in portions, because each time that the loop wakes up costs something.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from agent.adapters.bus_header import (
    FIXED,
    ForeignError,
    Header,
    Size,
    pattern_of,
    read_header,
    read_size,
    read_strings,
)
from agent.adapters.unix_socket import credentials_of
from agent.errors import UnavailableError

BUS = "org.freedesktop.DBus"
MAX_MESSAGE = 8192
"""The longest that keepalived or the bus have for us is a twentieth of it."""
MAX_FIELDS = 4096
AT_ONCE = 1 << 16
PAUSE_S = 0.002
"""After a portion with foreign messages: the next ones come together."""
MAX_NAMED = 8
"""So many senders are looked up in one portion; the rest of it counts as the last one's."""
_BEGIN = b"BEGIN\r\n"


class Sieve:
    """Bytes of the bus in, whole messages for the library out. Never holds more than one of those."""

    def __init__(
        self, on_refused: Callable[[str], None], on_owner: Callable[[str], None], name: str
    ) -> None:
        """`on_owner`: the bus says that `name` has another owner, or none. Called in the order of the
        messages, so that what the new owner says next is known to come from it."""
        self._on_refused = on_refused
        self._on_owner = on_owner
        self._name = name
        self._held = b""
        self._skip = 0
        self._named = 0
        self._reason = ""
        self.refused = 0
        self.admit("", "")

    def admit(self, owner: str, claimant: str) -> None:
        """Let the words of `owner` through, and skip those of `claimant` without a word."""
        self._heard = {BUS, owner} - {""}
        self._claimant = claimant
        self._known = pattern_of((BUS, owner, claimant))

    def feed(self, more: bytes) -> bytes:
        """Raises ForeignError when this is not D-Bus."""
        data = self._held + more
        self._named = 0
        passed = []
        place = 0
        while True:
            if self._skip:
                gone = min(self._skip, len(data) - place)
                place += gone
                self._skip -= gone
            if len(data) - place < FIXED:
                break
            size = read_size(data, place)
            end = place + min(size.head, FIXED + MAX_FIELDS)
            if len(data) < end:
                break
            if not self._is_wanted(data, place, end, size):
                self._skip = size.whole
                continue
            if len(data) - place < size.whole:
                break
            message = data[place : place + size.whole]
            place += size.whole
            if not self._tells_owner(message, size):
                passed.append(message)
        self._held = data[place:]
        return b"".join(passed)

    def _is_wanted(self, data: bytes, place: int, end: int, size: Size) -> bool:
        """Whether the message is for the library; `end` of what may be read of its header."""
        if self._known.search(data, place, end) is not None:
            sender = read_header(data, place, end, size.order).sender
            if sender and sender == self._claimant:
                return False  # the states are asked for as soon as it is known to be keepalived
            if sender in self._heard and size.whole > MAX_MESSAGE:
                return self._refuse(f"a message of {size.whole} bytes from {sender} on the bus")
            if sender in self._heard:
                return True
        if self._named < MAX_NAMED:
            self._named += 1
            self._reason = _stranger(read_header(data, place, end, size.order))
        return self._refuse(self._reason)

    def _refuse(self, reason: str) -> bool:
        self.refused += 1
        self._on_refused(reason)
        return False

    def _tells_owner(self, message: bytes, size: Size) -> bool:
        header = read_header(message, 0, size.head, size.order)
        if (header.sender, header.member, header.signature) != (BUS, "NameOwnerChanged", "sss"):
            return False
        name, _, owner = read_strings(message[size.head :], size.order, 3)
        if name == self._name:
            self._on_owner(owner)
        return True


def _stranger(header: Header) -> str:
    """Of what a stranger has written only one word is repeated."""
    what = "a VrrpStatusChange" if header.member == "VrrpStatusChange" else "a message on the bus"
    return f"{what} from {header.sender or 'an unknown sender'}, which is not keepalived"


class Gate:
    """One connection to the bus, for one connection of the library's to `address`. Ends both when either
    does, or when what comes is not D-Bus."""

    def __init__(self, path: Path, sieve: Sieve) -> None:
        """Raises UnavailableError if nothing accepts connections at `path`."""
        self._sieve = sieve
        self._loop = asyncio.get_running_loop()
        self._inner: socket.socket | None = None
        self._begun = False
        self._greeting = b""
        self._unsent = b""
        self._pause: asyncio.TimerHandle | None = None
        self._outer = _connect(path)
        name = f"hafw-{secrets.token_hex(16)}"
        self.address = f"unix:abstract={name}"
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._door.bind(f"\0{name}")
        self._door.listen()
        self._loop.add_reader(self._door, self._come_in)

    def close(self) -> None:
        """May be called again."""
        if self._pause is not None:
            self._pause.cancel()
        for one in (self._door, self._outer, self._inner):
            if one is not None and one.fileno() >= 0:
                self._loop.remove_reader(one)
                self._loop.remove_writer(one)
                one.close()

    def _come_in(self) -> None:
        """Only this process may: the name of the door can be read by others."""
        try:
            found, _ = self._door.accept()
        except BlockingIOError:
            return
        if credentials_of(found)[0] != os.getpid():
            found.close()
            return
        self._loop.remove_reader(self._door)
        self._door.close()
        found.setblocking(False)
        self._inner = found
        self._loop.add_reader(found, self._from_library, found)
        self._loop.add_reader(self._outer, self._from_bus, found)

    def _from_library(self, inner: socket.socket) -> None:
        try:
            data = inner.recv(AT_ONCE)
            if not data:
                self.close()
                return
            if not self._begun:
                self._greeting += data
                self._begun = _BEGIN in self._greeting
            self._unsent += data
            self._send(inner)
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def _send(self, inner: socket.socket) -> None:
        """A bus that takes nothing is not told more."""
        try:
            self._unsent = self._unsent[self._outer.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent:
            self._loop.remove_reader(inner)
            self._loop.add_writer(self._outer, self._send, inner)
        else:
            self._loop.remove_writer(self._outer)
            self._loop.add_reader(inner, self._from_library, inner)

    def _from_bus(self, inner: socket.socket) -> None:
        """One portion."""
        try:
            data = self._outer.recv(AT_ONCE)
            if not data:
                raise EOFError
            refused = self._sieve.refused
            passed = self._sieve.feed(data) if self._begun else data
            if passed and inner.send(passed) < len(passed):
                raise EOFError  # the library does not read; it is not told half a message
        except BlockingIOError:
            return
        except (OSError, EOFError, ForeignError):
            self.close()
            return
        if self._sieve.refused > refused and len(data) < AT_ONCE:
            self._loop.remove_reader(self._outer)
            self._pause = self._loop.call_later(PAUSE_S, self._resume, inner)

    def _resume(self, inner: socket.socket) -> None:
        self._loop.add_reader(self._outer, self._from_bus, inner)


def _connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.connect(str(path))
    except OSError as error:
        made.close()
        raise UnavailableError(f"the system bus is not available: {error.strerror}") from error
    return made
