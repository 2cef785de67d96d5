# SPDX-License-Identifier: GPL-2.0-or-later
"""The service manager's side: readiness, status line, watchdog, sockets that it made for us.

Hard facts
* sd_notify(3) is a datagram to the socket that NOTIFY_SOCKET names (`@`: an abstract one). libsystemd's own
  sender waits when that socket's queue is full, and a takeover must not wait for a busy service manager; so
  this one does not wait, and says whether the message went out.
* systemd 252 (Debian 12) does not know Type=notify-reload; RELOADING=1 with MONOTONIC_USEC, then READY=1, is
  right for it and for later ones.
* WATCHDOG_PID is the process that is watched: a child that inherits the environment is not.
"""

import os
import socket
import time
from collections.abc import Mapping

from systemd import daemon


def is_systemd_here() -> bool:
    """Whether it is what this machine was booted with."""
    return bool(daemon.booted())


class ServiceManager:
    """Does nothing without one. `watchdog_s`: how often the watchdog wants to be fed at the least, None if
    it does not watch."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._socket: socket.socket | None = None
        self._status = ""
        self._unsaid = False
        self.watchdog_s = _find_watchdog(environment)
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def say_ready(self) -> None:
        self._say(f"READY=1\nSTATUS={self._status}")

    def say_status(self, status: str) -> None:
        """One line for people. Sent when it has changed; what the manager could not take is sent with the
        next heartbeat."""
        if status != self._status:
            self._status = status
            self._unsaid = not self._say(f"STATUS={status}")

    def say_reloading(self) -> None:
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def say_stopping(self) -> None:
        self._say("STOPPING=1")

    def feed_watchdog(self) -> None:
        words = "WATCHDOG=1"
        if self._unsaid:
            words += f"\nSTATUS={self._status}"
        self._unsaid = not self._say(words) and self._unsaid

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, words: str) -> bool:
        if self._socket is None:
            return True
        try:
            self._socket.sendto(words.encode(), self._address)
        except OSError:
            return False
        return True


def _find_watchdog(environment: Mapping[str, str]) -> float | None:
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6


def find_notice_socket() -> socket.socket | None:
    """The datagram socket of hafw-agent.socket, if we were started by it."""
    for descriptor in daemon.listen_fds():
        if daemon.is_socket_unix(descriptor, socket.SOCK_DGRAM):
            return socket.socket(fileno=descriptor)
    return None
