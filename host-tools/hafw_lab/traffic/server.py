# SPDX-License-Identifier: GPL-2.0-or-later
"""The server's end of the measured traffic. Runs inside a node.

    server CLOCK_OFFSET_NS PUSH_INTERVAL_NS ADDRESS TCP_PORT UDP_PORT

It pushes one 16-byte message (counter, time) after the other over each TCP connection, and echoes UDP.
"""

import contextlib
import functools
import socket
import sys

from hafw_lab.traffic.endpoint import (
    HELLO,
    MESSAGE,
    SUBSCRIBE,
    Commands,
    Json,
    Loop,
    errno_name,
    now_ns,
    segments_lost,
    set_clock,
)


class Push:
    """The server's end of one TCP connection."""

    def __init__(self, loop: Loop, sock: socket.socket, interval_ns: int) -> None:
        self.loop, self.sock = loop, sock
        self.number: int | None = None
        self.ended: str | None = None
        self.ended_ns = 0
        self._interval_ns = interval_ns
        self._counter = 0
        self._rest = b""
        loop.watch(sock, self._readable)

    def _readable(self) -> None:
        try:
            data = self.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(errno_name(error))
            return
        if self.number is None and len(data) == HELLO.size:
            self.number = HELLO.unpack(data)[0]
            self.loop.at(now_ns(), self._push)
        elif self.number is None or not data:
            self._end("closed")

    def lost(self) -> int:
        """Segments of this end, so far."""
        return 0 if self.ended else segments_lost(self.sock)

    def _push(self, now_ns: int) -> int | None:
        if self.ended:
            return None
        # A full send buffer keeps its unsent rest, so that the counter at the other end has no hole of our
        # making.
        if not self._rest:
            self._rest = MESSAGE.pack(self._counter, now_ns)
            self._counter += 1
        try:
            self._rest = self._rest[self.sock.send(self._rest) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(errno_name(error))
            return None
        return now_ns + self._interval_ns

    def _end(self, how: str) -> None:
        self.ended, self.ended_ns = how, now_ns()
        self.loop.forget(self.sock)
        self.sock.close()


class Server:
    def __init__(self, loop: Loop, address: str, ports: tuple[int, int], push_interval_ns: int) -> None:
        """`ports`: of TCP, of UDP."""
        self.loop = loop
        self.push_interval_ns = push_interval_ns
        self.pushes: list[Push] = []
        self.subscribers: set[tuple[str, int]] = set()
        self.pushing = True
        listener = socket.create_server((address, ports[0]), backlog=1024)
        listener.setblocking(False)
        loop.watch(listener, functools.partial(self._accept, listener))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.udp.bind((address, ports[1]))
        self.udp.setblocking(False)
        loop.watch(self.udp, self._datagrams)
        Commands(loop, {"report": self.report, "push": self.push, "ended": self.ended})

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _ = listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.pushes.append(Push(self.loop, sock, self.push_interval_ns))

    def _datagrams(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data, address = self.udp.recvfrom(2048)
                    if data[:1] == b"p":
                        self._send(data, address)
                    elif data[:1] == b"s" and address not in self.subscribers:
                        self._subscribe(address, SUBSCRIBE.unpack(data)[1] * 1_000_000)
                except ConnectionRefusedError:
                    continue  # an answer to an earlier datagram: that client is gone

    def _send(self, data: bytes, address: tuple[str, int]) -> None:
        # an unreachable client is what this program is there to measure
        with contextlib.suppress(OSError):
            self.udp.sendto(data, address)

    def _subscribe(self, address: tuple[str, int], interval_ns: int) -> None:
        counter = 0
        self.subscribers.add(address)

        def push(now_ns: int) -> int:
            nonlocal counter
            if self.pushing:
                self._send(b"m" + MESSAGE.pack(counter, now_ns), address)
                counter += 1
            return now_ns + interval_ns

        self.loop.at(now_ns(), push)

    def push(self, command: Json) -> Json:
        """`on: false` silences the subscriptions; the TCP connections continue."""
        self.pushing = bool(command["on"])
        return {"subscribers": len(self.subscribers)}

    def ended(self, _: Json) -> Json:
        """The numbers of the connections that broke."""
        return {"ended": [push.number for push in self.pushes if push.ended and push.number is not None]}

    def report(self, _: Json) -> Json:
        pushes = [push for push in self.pushes if push.number is not None]
        names = ("number", "ended", "ended_ns")
        states = [{"lost": push.lost(), **{name: getattr(push, name) for name in names}} for push in pushes]
        return {"now_ns": now_ns(), "connections": states}


def main(clock_offset_ns: str, push_interval_ns: str, address: str, tcp_port: str, udp_port: str) -> None:
    set_clock(int(clock_offset_ns))
    loop = Loop()
    Server(loop, address, (int(tcp_port), int(udp_port)), int(push_interval_ns))
    loop.run_measured()


if __name__ == "__main__":
    main(*sys.argv[1:])
