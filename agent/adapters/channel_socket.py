# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's end of the socket of `hafw channel`, which speaks with the peer. It keeps the borders of what
is sent.

Neither end ever waits for the other: what does not fit is lost, and the same is said again soon.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

from agent.adapters.pace import Pace, PacedReader

PACE = Pace(at_once=100, per_second=200)
"""All paths together carry a tenth of it, and half of it while states are listed."""
AT_ONCE = 8
MAX_DATAGRAM = 1 << 17


class ChannelSocket:
    """One connection to it. `take` is called with what comes, `ended` once when the process is gone."""

    def __init__(self, path: Path, take: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """Raises OSError when nobody listens there."""
        self._take, self._ended = take, ended
        kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._socket.connect(str(path))
            self._reader = PacedReader(self._socket.fileno(), self._receive, PACE)
        except OSError:
            self._socket.close()
            raise

    def send(self, data: bytes) -> bool:
        """False when there is no room for it now, or the process is gone, which the reader learns."""
        with contextlib.suppress(OSError):
            self._socket.send(data)
            return True
        return False

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._reader.close()
            self._socket.close()

    def _receive(self) -> int:
        for count in range(AT_ONCE):
            try:
                data = self._socket.recv(MAX_DATAGRAM)
            except BlockingIOError:
                return max(count, 1)
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().call_soon(self._end)
                return max(count, 1)
            self._take(data)
        return AT_ONCE

    def _end(self) -> None:
        if self._socket.fileno() >= 0:
            self.close()
            self._ended()
