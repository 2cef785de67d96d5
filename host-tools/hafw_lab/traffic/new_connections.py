# SPDX-License-Identifier: GPL-2.0-or-later
"""New connections, so many a second, as long as it runs. Runs inside the client's node.

    new_connections RATE_HZ SOURCE UDP_PORT TARGET...

Each is one datagram that nobody answers, made by hand: with a socket for each, this program would need more
of the processors than the pair that is measured. The targets take turns with each round of the source's
ports, so that no port is used again while the firewall still has its state: it would look for another port
among its own, of which most are taken, hundreds of times for each datagram.
"""

import contextlib
import socket
import struct
import sys

from hafw_lab.traffic.endpoint import Commands, Json, Loop, now_ns

_TICK_NS = 5_000_000
_CATCH_UP = 2
"""How many times its usual number a tick sends at most when it is late. The rest is left out: this program
comes before others, and a burst would keep the pair from ever getting up again."""
_FIRST_PORT, _PORTS = 1024, 64_000
_BODY = b"new"
_IP_HEAD = struct.Struct("!BBHHHBBH4s4s")
_UDP_HEAD = struct.Struct("!HHHH")


class NewConnections:
    def __init__(self, loop: Loop, rate_hz: int, source: str, port: int, targets: tuple[str, ...]) -> None:
        # the kernel fills in length, number and checksum of what comes from such a socket
        self._out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._rate_hz = rate_hz
        self._port, self._targets = port, targets
        self._heads = [
            _IP_HEAD.pack(0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, *map(socket.inet_aton, (source, one)))
            for one in targets
        ]
        self._sent = 0
        self._last_ns = now_ns()
        self._owed_ns = 0
        Commands(loop, {"sent": self.sent})
        loop.at(self._last_ns, self._tick)

    def sent(self, _: Json) -> Json:
        return {"sent": self._sent}

    def _tick(self, now_ns: int) -> int:
        most_ns = _CATCH_UP * _TICK_NS
        self._owed_ns = min(self._owed_ns + now_ns - self._last_ns, most_ns)
        self._last_ns = now_ns
        each_ns = 10**9 // self._rate_hz
        while self._owed_ns >= each_ns:
            self._owed_ns -= each_ns
            self._send(self._sent)
            self._sent += 1
        return now_ns + _TICK_NS

    def _send(self, number: int) -> None:
        turn = number // _PORTS % len(self._targets)
        source_port = _FIRST_PORT + number % _PORTS
        datagram = _UDP_HEAD.pack(source_port, self._port, _UDP_HEAD.size + len(_BODY), 0) + _BODY
        with contextlib.suppress(OSError):  # nobody has the gateway's address at this moment
            self._out.sendto(self._heads[turn] + datagram, (self._targets[turn], 0))


def main(rate_hz: str, source: str, port: str, *targets: str) -> None:
    loop = Loop()
    NewConnections(loop, int(rate_hz), source, int(port), targets)
    loop.run_measured()


if __name__ == "__main__":
    main(*sys.argv[1:])
