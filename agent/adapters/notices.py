# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook's datagrams: who may send them, and what a good one looks like.

A notice is only a hint, so a forged or repeated one could do no more than make the agent look. It is refused
all the same, counted and recorded, because the sender of such things is worth knowing about.

Hard facts: the socket is datagram AF_UNIX; the kernel adds the sender's credentials (SO_PASSCRED) and nobody
can forge them; at most net.unix.max_dgram_qlen datagrams wait (10 on Debian), the hook then drops its own.
"""

import pwd
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import unix_socket
from agent.core.assess import VrrpState
from agent.errors import HafwError
from agent.file_cures import cure_of

MAX_BYTES = 1024
OLDEST_S = 60.0
AT_ONCE = 8
_CREDENTIALS = struct.Struct("3i")

_STATES = {
    "MASTER": VrrpState.MASTER,
    "BACKUP": VrrpState.BACKUP,
    "FAULT": VrrpState.FAULT,
    "STOP": VrrpState.STOP,
    "DELETED": VrrpState.DELETED,
}


@dataclass(frozen=True, slots=True)
class Notice:
    """The arguments of the hook. `sent_ns` is CLOCK_MONOTONIC at the hook."""

    kind: str
    name: str
    state: VrrpState
    sent_ns: int
    pid: int


class RefusedError(HafwError):
    """A datagram that is not a notice of our hook."""


def parse_notice(datagram: bytes, now_ns: int) -> Notice:
    """Raises RefusedError with the reason."""
    if len(datagram) > MAX_BYTES:
        raise RefusedError(f"a datagram of more than {MAX_BYTES} bytes")
    try:
        fields = datagram.decode("ascii").split("\0")
    except UnicodeDecodeError as error:
        raise RefusedError("a datagram that is not ASCII") from error
    if fields[0] != "hafw1":
        raise RefusedError("a datagram that does not come from the hook")
    if len(fields) != 8 or fields[-1] != "end":
        raise RefusedError("a truncated datagram")
    _, kind, name, state, priority, sent, pid, _ = fields
    if kind not in ("INSTANCE", "GROUP") or state not in _STATES or not name.isprintable():
        raise RefusedError("a notice with an unknown type or state")
    if not (priority.isdigit() and sent.isdigit() and pid.isdigit() and len(sent) < 20 and len(pid) < 10):
        raise RefusedError("a notice with invalid numbers")
    age_s = (now_ns - int(sent)) / 1e9
    if not 0 <= age_s <= OLDEST_S:
        raise RefusedError("a notice that is too old, or from the future")
    return Notice(kind, name, _STATES[state], int(sent), int(pid))


def allowed_users() -> frozenset[int]:
    """root, and the user that keepalived runs scripts as where it exists."""
    try:
        return frozenset({0, pwd.getpwnam("keepalived_script").pw_uid})
    except KeyError:
        return frozenset({0})


class NoticeSocket:
    """`on_notice` gets every good notice, `on_refused` the reason for every other datagram."""

    def __init__(self, on_notice: Callable[[Notice], None], on_refused: Callable[[str], None]) -> None:
        self._on_notice = on_notice
        self._on_refused = on_refused
        self._users = allowed_users()
        self._seen: deque[tuple[int, int]] = deque(maxlen=256)
        self._socket: socket.socket | None = None
        self._path: Path | None = None

    def listen(self, path: Path) -> None:
        """Make the socket; one left by an earlier run is replaced, anything else at `path` is not touched.
        Raises HafwError if there can be none."""
        try:
            made = unix_socket.bind(path, socket.SOCK_DGRAM, 0o660)
        except OSError as error:
            message = f"cannot listen for notices at {path}: {error.strerror or error}"
            raise HafwError(message, cure_of(error) or "run it once on each node") from error
        self._path = path
        self.adopt(made)

    def adopt(self, made: socket.socket) -> None:
        """Use a socket that systemd listens on for us."""
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket = made

    def fileno(self) -> int:
        if self._socket is None:
            raise AssertionError("listen() comes first")
        return self._socket.fileno()

    def receive(self) -> int:
        """Read what waits, AT_ONCE datagrams at the most; how many there were."""
        if self._socket is None:
            return 0
        for count in range(AT_ONCE):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    MAX_BYTES + 1, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return count
            try:
                self._on_notice(self._check(data, _user_of(ancillary)))
            except RefusedError as error:
                self._on_refused(error.message)
        return AT_ONCE

    def _check(self, data: bytes, user: int | None) -> Notice:
        if user not in self._users:
            raise RefusedError(f"a datagram from user {user}, who may not send any")
        notice = parse_notice(data, time.monotonic_ns())
        identity = (notice.pid, notice.sent_ns)
        if identity in self._seen:
            raise RefusedError("a notice that was received before")
        self._seen.append(identity)
        return notice

    def close(self) -> None:
        """The file goes too, so that hooks know that no agent listens; a socket of systemd's stays."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _user_of(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) >= _CREDENTIALS.size:
            return int(_CREDENTIALS.unpack_from(data)[1])
    return None
