# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets from the client to the server, all the time, whatever the firewall between them does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.netns.firewall import Firewall
from tests.netns.pair_checks import until

PORT = 5353
FORBIDDEN_PORT = 9999
LIMIT_S = 60


class Flood:
    """To PORT the policy allows them. As many as can be sent with `pause_s` 0."""

    def __init__(self, firewall: Firewall, port: int = PORT, pause_s: float = 0.001) -> None:
        self._to, self._pause_s = ("192.168.0.10", port), pause_s
        with firewall.client.entered():
            self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with firewall.server.entered():
            self._in = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._in.bind(self._to)
        self._in.setblocking(False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent = 0

    def _send(self) -> None:
        while not self._over.wait(self._pause_s):
            self._out.sendto(b"x", self._to)
            self.sent += 1

    def came(self) -> int:
        """How many came to the server since the last call."""
        found = 0
        while True:
            try:
                self._in.recv(10)
            except BlockingIOError:
                return found
            found += 1

    def resume(self) -> None:
        """Until a hundred more are sent."""
        goal = self.sent + 100
        until(lambda: self.sent >= goal, LIMIT_S, "nothing is sent")

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
            self._in.close()
            self._out.close()
