# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's end of the measured traffic. Runs inside a node.

    client CLOCK_OFFSET_NS UDP_PORT

It says one thing only over TCP, its connection's number, so that both ends speak of the same connections: a
firewall that has lost a NATed state answers the *server's* packets with a reset, and the client never hears
of it.
"""

import contextlib
import functools
import socket
import sys
from array import array

from hafw_lab.traffic.endpoint import (
    HELLO,
    MESSAGE,
    PROBE,
    SUBSCRIBE,
    Commands,
    Json,
    Loop,
    errno_name,
    now_ns,
    segments_lost,
    set_clock,
)

LATE_NS = 5_000_000
"""A probe this late is sent now and the missed ones are left out: a burst would measure nothing."""


class Stream:
    """What has arrived over one connection: whole messages, whether the counter had holes, the longest
    silence."""

    def __init__(self, now_ns: int) -> None:
        self.messages = 0
        self.bytes = 0
        self.intact = True
        self.last_ns = now_ns
        self.stall_ns = 0
        self.stall_from_ns = now_ns
        self.ended: str | None = None
        self.ended_ns = 0
        self.sock: socket.socket | None = None
        """Of TCP, while it lasts."""
        self._rest = b""

    def feed(self, data: bytes, now_ns: int) -> None:
        self._silence_until(now_ns)
        self.last_ns = now_ns
        self.bytes += len(data)
        data = self._rest + data
        whole = len(data) - len(data) % MESSAGE.size
        self._rest = data[whole:]
        for counter, _ in MESSAGE.iter_unpack(data[:whole]):
            self.count(counter)

    def count(self, counter: int) -> None:
        """Take message number `counter`; a hole or a repeat spoils the stream, but is complained of once
        only."""
        if counter != self.messages:
            self.intact = False
        self.messages = counter + 1

    def end(self, how: str, now_ns: int) -> None:
        if self.ended is None:
            self.ended, self.ended_ns = how, now_ns

    def mark(self, now_ns: int) -> None:
        """Forget the silences so far."""
        self.stall_ns, self.stall_from_ns, self.last_ns = 0, now_ns, now_ns

    def lost(self) -> int:
        """Segments of this end, so far."""
        return segments_lost(self.sock) if self.sock else 0

    def summary(self, now_ns: int) -> Json:
        """A stream that is silent at this moment counts as silent until now."""
        self._silence_until(now_ns)
        names = ("messages", "bytes", "intact", "last_ns", "stall_ns", "stall_from_ns", "ended", "ended_ns")
        return {"lost": self.lost(), **{name: getattr(self, name) for name in names}}

    def _silence_until(self, now_ns: int) -> None:
        if now_ns - self.last_ns > self.stall_ns:
            self.stall_ns, self.stall_from_ns = now_ns - self.last_ns, self.last_ns


class Client:
    def __init__(self, loop: Loop, udp_port: int) -> None:
        self.loop = loop
        self.udp_port = udp_port
        self.streams: dict[int, Stream] = {}
        self.flows: list[tuple[Stream, socket.socket]] = []
        self.refreshing = True
        self.sent, self.received, self.received_seq = array("q"), array("q"), array("q")
        self.rate_hz = 0
        self.late_ns = 0
        self.send_errors = 0
        self.mark_seq = 0
        verbs = (
            self.open,
            self.subscribe,
            self.probe,
            self.mark,
            self.snapshot,
            self.report,
            self.hush,
            self.talk,
        )
        Commands(loop, {verb.__name__: verb for verb in verbs})

    def open(self, command: Json) -> Json:
        """Open `count` TCP connections to `server`:`port`, one after another; `failed` says why the rest did
        not."""
        address = str(command["server"]), int(str(command["port"]))
        ports, failed = [], []
        for _ in range(int(str(command["count"]))):
            try:
                sock = socket.create_connection(address, timeout=float(str(command.get("timeout_s", 3))))
                sock.sendall(HELLO.pack(len(self.streams)))
            except OSError as error:
                failed.append(errno_name(error))
                break  # the next ones would wait as long for the same
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = self.streams[len(self.streams)] = Stream(now_ns())
            stream.sock = sock
            self.loop.watch(sock, functools.partial(self._receive, sock, stream))
            ports.append(sock.getsockname()[1])
        return {"ports": ports, "failed": failed}

    def _receive(self, sock: socket.socket, stream: Stream) -> None:
        now = now_ns()
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            stream.end(errno_name(error), now)
            data = b""
        if data:
            stream.feed(data, now)
        else:
            stream.end("closed", now)
            stream.sock = None
            self.loop.forget(sock)
            sock.close()

    def talk(self, command: Json) -> Json:
        """From now on the client says something as well over each TCP connection, every `interval_ms`."""
        interval_ns = int(str(command["interval_ms"])) * 1_000_000
        for stream in self.streams.values():
            self.loop.at(now_ns(), functools.partial(self._talk, stream, interval_ns))
        return {"now_ns": now_ns()}

    def _talk(self, stream: Stream, interval_ns: int, now_ns: int) -> int | None:
        if stream.sock is None:
            return None
        with contextlib.suppress(OSError):  # a full buffer; an error is read
            stream.sock.send(MESSAGE.pack(0, now_ns))
        return now_ns + interval_ns

    def subscribe(self, command: Json) -> Json:
        """Old UDP flows: the server pushes every `interval_ms`; we repeat the request every second until
        `hush`."""
        request = SUBSCRIBE.pack(b"s", int(str(command["interval_ms"])))
        for _ in range(int(str(command["count"]))):
            sock = udp_socket(str(command["server"]), self.udp_port)
            stream = Stream(now_ns())
            self.flows.append((stream, sock))
            self.loop.watch(sock, functools.partial(self._flow_receive, sock, stream))
            self.loop.at(now_ns(), functools.partial(self._refresh, sock, request))
        return {"flows": len(self.flows)}

    def _refresh(self, sock: socket.socket, request: bytes, now_ns: int) -> int:
        if self.refreshing:
            with contextlib.suppress(OSError):
                sock.send(request)
        return now_ns + 1_000_000_000

    def _flow_receive(self, sock: socket.socket, stream: Stream) -> None:
        with contextlib.suppress(OSError):
            stream.feed(sock.recv(2048)[1:], now_ns())

    def hush(self, _: Json) -> Json:
        """From now on only the server speaks on the UDP flows."""
        self.refreshing = False
        return {"now_ns": now_ns()}

    def probe(self, command: Json) -> Json:
        """Send `rate_hz` numbered datagrams a second to the echo of `server`."""
        sock = udp_socket(str(command["server"]), self.udp_port)
        self.rate_hz = int(str(command["rate_hz"]))
        period_ns, due_ns = 1_000_000_000 // self.rate_hz, now_ns()
        self.loop.watch(sock, lambda: self._echoes(sock))

        def send(now_ns: int) -> int:
            nonlocal due_ns
            self.late_ns = max(self.late_ns, now_ns - due_ns)
            try:
                sock.send(PROBE.pack(b"p", len(self.sent)))
            except OSError:
                self.send_errors += 1
            self.sent.append(now_ns)
            due_ns = now_ns if now_ns - due_ns > LATE_NS else due_ns
            due_ns += period_ns
            return due_ns

        self.loop.at(due_ns, send)
        return {"now_ns": due_ns}

    def _echoes(self, sock: socket.socket) -> None:
        # nothing more to read, or an ICMP error that belongs to a lost probe
        with contextlib.suppress(OSError):
            while True:
                data = sock.recv(64)
                self.received.append(now_ns())
                self.received_seq.append(PROBE.unpack(data)[1])

    def mark(self, _: Json) -> Json:
        """What is reported counts from here."""
        now = now_ns()
        for stream in self._all():
            stream.mark(now)
        self.mark_seq, self.late_ns, self.send_errors = len(self.sent), 0, 0
        return {"now_ns": now}

    def snapshot(self, _: Json) -> Json:
        """Cheap, for live display and for waiting."""
        now = now_ns()
        return {
            "now_ns": now,
            "last_ns": [[n, stream.last_ns] for n, stream in self.streams.items() if stream.ended is None],
            "flows_last_ns": [stream.last_ns for stream, _ in self.flows],
            "bytes": sum(stream.bytes for stream in self._all()),
            "sent": len(self.sent),
            "received": len(self.received),
            "echo_ns": self.received[-1] if self.received else 0,
        }

    def report(self, _: Json) -> Json:
        now = now_ns()
        return {
            "now_ns": now,
            "connections": [{"number": n, **stream.summary(now)} for n, stream in self.streams.items()],
            "flows": [{"number": n, **stream.summary(now)} for n, (stream, _) in enumerate(self.flows)],
            "probe": {
                "rate_hz": self.rate_hz,
                "mark_seq": self.mark_seq,
                "sent_ns": list(self.sent),
                "received": list(zip(self.received_seq, self.received, strict=True)),
                "late_ns": self.late_ns,
                "send_errors": self.send_errors,
            },
        }

    def _all(self) -> list[Stream]:
        return [*self.streams.values(), *(stream for stream, _ in self.flows)]


def udp_socket(server: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.connect((server, port))
    sock.setblocking(False)
    return sock


def main(clock_offset_ns: str, udp_port: str) -> None:
    set_clock(int(clock_offset_ns))
    loop = Loop()
    Client(loop, int(udp_port))
    loop.run_measured()


if __name__ == "__main__":
    main(*sys.argv[1:])
