# SPDX-License-Identifier: GPL-2.0-or-later
"""The measured traffic, seen from the host: starts the two ends in their nodes, talks to them, judges the
reports."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hafw_lab.client.clock import SAME_CLOCK, Clock
from hafw_lab.traffic import client as traffic_client
from hafw_lab.traffic import server as traffic_server
from hafw_lab.traffic.figures import ALIVE_WITHIN_NS, Connection, ProbeFigures, judge, measure_probe
from hafw_lab.traffic.ports import USUAL_PORTS, Ports
from hafw_lab.traffic.program import ANSWER_TIMEOUT_S, Program, TrafficNode

_SILENT_AFTER = 20
"""So many messages of a connection have to be missing before it is called silent."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cheap look at the running traffic. `last_ns`: when each TCP connection last received, by its number;
    those that either end saw breaking are not in it. `patience_ms`: how long a connection may say nothing
    before it is called silent."""

    now_ns: int
    last_ns: Mapping[int, int]
    flows_last_ns: tuple[int, ...]
    bytes: int
    sent: int
    received: int
    echo_ns: int
    patience_ms: int

    def alive(self, within_ms: int | None = None) -> int:
        within_ns = (within_ms or self.patience_ms) * 1_000_000
        return sum(self.now_ns - last < within_ns for last in self.last_ns.values())

    @property
    def echoes(self) -> bool:
        """Whether the probe is answered."""
        return self.now_ns - self.echo_ns < self.patience_ms * 500_000

    @property
    def waiting(self) -> int:
        """Connections that are silent, and neither end knows why."""
        return len(self.last_ns) - self.alive()

    def flows_alive(self, within_ms: int = 200) -> int:
        return sum(self.now_ns - last < within_ms * 1_000_000 for last in self.flows_last_ns)


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """`late_ns`: how late the client itself once was with a probe; a blackout near it says nothing.
    `sent_ns[seq]` is when a probe left, `answered` those that came back, `samples` (time in ns, bytes so
    far) of all snapshots."""

    now_ns: int
    connections: tuple[Connection, ...]
    flows_alive: int
    probe: ProbeFigures
    late_ns: int
    sent_ns: tuple[int, ...] = ()
    answered: frozenset[int] = frozenset()
    samples: tuple[tuple[int, int], ...] = ()


class Traffic:
    def __init__(
        self, client: Program, server: Program, address: str, port: int, push_interval_ms: int
    ) -> None:
        self._client, self._server = client, server
        self._address, self._port = address, port
        self._patience_ms = _SILENT_AFTER * push_interval_ms
        self._samples: list[tuple[int, int]] = []

    def open(self, count: int, *, port: int | None = None, timeout_s: float = 3.0) -> tuple[int, ...]:
        """Open further TCP connections, to another `port` than the server's if wanted; returns the client's
        ports of those that came up."""
        answer = self._client.ask(
            "open",
            timeout_s + ANSWER_TIMEOUT_S,
            server=self._address,
            port=port or self._port,
            count=count,
            timeout_s=timeout_s,
        )
        return tuple(_list(answer, "ports"))

    def probe(self, rate_hz: int = 1000) -> None:
        self._client.ask("probe", server=self._address, rate_hz=rate_hz)

    def subscribe(self, count: int, *, interval_ms: int = 100) -> None:
        """Open `count` UDP flows over which the server speaks; the client repeats itself each second until
        `hush`."""
        self._client.ask("subscribe", server=self._address, count=count, interval_ms=interval_ms)

    def talk(self, *, interval_ms: int) -> None:
        """From now on the client speaks as well over the TCP connections that are open."""
        self._client.ask("talk", interval_ms=interval_ms)

    def hush(self) -> None:
        """From now on only the server speaks on the UDP flows."""
        self._client.ask("hush")

    def push(self, on: bool) -> None:
        """Let the server fall silent on the UDP flows, or speak again."""
        self._server.ask("push", on=on)

    def mark(self) -> int:
        """Count from here; returns CLOCK_MONOTONIC in ns."""
        return _int(self._client.ask("mark"), "now_ns")

    def snapshot(self) -> Snapshot:
        broken = set(_list(self._server.ask("ended"), "ended"))
        answer = self._client.ask("snapshot")
        self._samples.append((_int(answer, "now_ns"), _int(answer, "bytes")))
        return Snapshot(
            now_ns=_int(answer, "now_ns"),
            last_ns={number: at for number, at in _list(answer, "last_ns") if number not in broken},
            flows_last_ns=tuple(_list(answer, "flows_last_ns")),
            bytes=_int(answer, "bytes"),
            sent=_int(answer, "sent"),
            received=_int(answer, "received"),
            echo_ns=_int(answer, "echo_ns"),
            patience_ms=self._patience_ms,
        )

    def report(self) -> TrafficReport:
        answer = self._client.ask("report", 30)
        probe = answer["probe"]
        assert isinstance(probe, dict)
        now_ns = _int(answer, "now_ns")
        far = self._server.ask("report")
        flows = _list(answer, "flows")
        return TrafficReport(
            now_ns=now_ns,
            connections=judge(
                _list(answer, "connections"),
                _list(far, "connections"),
                now_ns,
                max(ALIVE_WITHIN_NS, self._patience_ms * 1_000_000),
            ),
            flows_alive=sum(now_ns - _int(row, "last_ns") < 1_000_000_000 for row in flows),
            probe=measure_probe(
                probe["sent_ns"], probe["received"], mark_seq=_int(probe, "mark_seq"), now_ns=now_ns
            ),
            late_ns=_int(probe, "late_ns"),
            sent_ns=tuple(probe["sent_ns"]),
            answered=frozenset(seq for seq, _ in probe["received"]),
            samples=tuple(self._samples),
        )


@contextmanager
def start_traffic(
    client: TrafficNode,
    server: TrafficNode,
    address: str,
    *,
    ports: Ports = USUAL_PORTS,
    clocks: tuple[Clock, Clock] = (SAME_CLOCK, SAME_CLOCK),
    push_interval_ms: int = 10,
) -> Iterator[Traffic]:
    """Both ends, ready; nothing flows yet. `address` is the server's, as the client reaches it. With the
    `clocks` of client and server all times are this machine's."""
    with contextlib.ExitStack() as stack:
        push_ns, tcp, udp = push_interval_ms * 1_000_000, ports.tcp, ports.udp
        told = map(str, (clocks[1].offset_ns, push_ns, address, tcp, udp))
        far = Program(server, traffic_server, *told)
        stack.callback(far.close)
        near = Program(client, traffic_client, str(clocks[0].offset_ns), str(udp))
        stack.callback(near.close)
        yield Traffic(near, far, address, ports.tcp, push_interval_ms)


def _int(row: Mapping[str, object], key: str) -> int:
    value = row[key]
    assert isinstance(value, int), f"{key} of {row}"
    return value


def _list(row: Mapping[str, object], key: str) -> list[Any]:
    value = row[key]
    assert isinstance(value, list), f"{key} of {row}"
    return value
