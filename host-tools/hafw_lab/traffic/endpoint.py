# SPDX-License-Identifier: GPL-2.0-or-later
"""What both ends of the measured traffic are made of: their clock, their loop, their way with commands.

Standard library only: it runs inside a node, as a part of server.py and client.py. Commands
come in on standard input, one JSON object a line; each gets exactly one line of answer; end of input ends
the program. All times are CLOCK_MONOTONIC in nanoseconds, which every network namespace of a machine shares;
a virtual machine has its own, and an end is told how much to add to it.

UDP datagrams begin with one byte: `p` probe (echoed as it is), `s` subscribe (the server pushes messages to
that address from then on), `m` such a message.
"""

import contextlib
import errno
import gc
import heapq
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable

MESSAGE = struct.Struct(">QQ")
HELLO = struct.Struct(">Q")
PROBE = struct.Struct(">cQ")
SUBSCRIBE = struct.Struct(">cI")

_INFO = struct.Struct("=100xI112xI")
"""Of struct tcp_info: tcpi_total_retrans, tcpi_dsack_dups."""

Json = dict[str, object]

_offset_ns = 0


def set_clock(offset_ns: int) -> None:
    """What to add to this node's clock."""
    global _offset_ns
    _offset_ns = offset_ns


def now_ns() -> int:
    return time.monotonic_ns() + _offset_ns


class Loop:
    """Callbacks for readable sockets and for moments. select(2), as epoll rounds its timeouts up to
    milliseconds."""

    def __init__(self) -> None:
        self.running = True
        self._selector = selectors.SelectSelector()
        self._moments: list[tuple[int, int, Callable[[int], int | None]]] = []
        self._order = 0

    def watch(self, sock: socket.socket | int, callback: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, callback)

    def forget(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def at(self, when_ns: int, callback: Callable[[int], int | None]) -> None:
        """Call `callback(now)` at a moment, and again at each moment that it returns."""
        self._order += 1
        heapq.heappush(self._moments, (when_ns, self._order, callback))

    def run(self) -> None:
        while self.running:
            now = now_ns()
            while self._moments and self._moments[0][0] <= now:
                callback = heapq.heappop(self._moments)[2]
                again = callback(now)
                if again is not None:
                    self.at(again, callback)
                now = now_ns()
            timeout = max(0, self._moments[0][0] - now) / 1e9 if self._moments else None
            for key, _ in self._selector.select(timeout):
                key.data()

    def run_measured(self) -> None:
        """Say that all is ready, and run. An end stands for another machine: what the firewalls' daemons do
        must not delay it."""
        gc.disable()
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        sys.stdout.write(json.dumps({"ready": now_ns()}) + "\n")
        sys.stdout.flush()
        self.run()


class Commands:
    """JSON lines in on standard input, one answer each on standard output."""

    def __init__(self, loop: Loop, handlers: dict[str, Callable[[Json], Json]]) -> None:
        self._loop, self._handlers, self._rest = loop, handlers, b""
        loop.watch(0, self._readable)

    def _readable(self) -> None:
        data = os.read(0, 65536)
        if not data:
            self._loop.running = False
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._answer(json.loads(line))

    def _answer(self, command: Json) -> None:
        try:
            answer = self._handlers[str(command["cmd"])](command)
        except OSError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def segments_lost(sock: socket.socket) -> int:
    """So far, of those that this end has sent: what TCP had to send again, without what the other end then
    had twice."""
    again, twice = _INFO.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
    return int(again) - int(twice)


def errno_name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
