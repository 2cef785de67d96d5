# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ends of the measured traffic over a real wire that is cut and repaired, without a lab."""

import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hafw_lab.errors import LabError
from hafw_lab.traffic.ports import USUAL_PORTS
from hafw_lab.traffic.session import Traffic, start_traffic

pytestmark = pytest.mark.netns
CLIENT, SERVER = "192.0.2.1", "192.0.2.2"
MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Ends:
    """A node of the traffic's: a network namespace that one process keeps alive."""

    name: str
    pid: int

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._enter(), *argv], stdin=stdin, stdout=stdout, stderr=stderr)

    def run(self, *argv: str) -> None:
        subprocess.run([*self._enter(), *argv], check=True, timeout=10, capture_output=True)

    def _enter(self) -> list[str]:
        return ["nsenter", "--net", "--target", str(self.pid)]


@contextmanager
def namespace(name: str) -> Iterator[Ends]:
    """`cat` says with its echo that it runs inside the new namespace, and ends with our end of its input."""
    process = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(b"ready\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 10)[0]
        assert os.read(process.stdout.fileno(), 16) == b"ready\n"
        yield Ends(name, process.pid)
    finally:
        process.communicate(timeout=10)


@dataclass(frozen=True, slots=True)
class Wire:
    client: Ends
    server: Ends
    traffic: Traffic

    def cut(self) -> None:
        self.server.run("ip", "link", "set", "eth0", "down")

    def repair(self) -> None:
        self.server.run("ip", "link", "set", "eth0", "up")


@pytest.fixture
def wire() -> Iterator[Wire]:
    if os.geteuid() != 0:
        pytest.skip("needs root for its two namespaces")
    with ExitStack() as stack:
        client, server = stack.enter_context(namespace("client")), stack.enter_context(namespace("server"))
        client.run(*f"ip link add eth0 type veth peer name eth0 netns {server.pid}".split())
        for node, address in ((client, CLIENT), (server, SERVER)):
            node.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            node.run("ip", "link", "set", "eth0", "up")
        yield Wire(client, server, stack.enter_context(start_traffic(client, server, SERVER)))


def until(what: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        select.select([], [], [], 0.02)


def test_an_interruption_is_measured_and_nothing_is_lost(wire: Wire) -> None:
    traffic = wire.traffic
    assert len(set(traffic.open(50))) == 50
    traffic.probe(1000)
    until(lambda: traffic.snapshot().received > 200 and traffic.snapshot().alive() == 50)
    traffic.mark()
    cut_ns = time.monotonic_ns()
    wire.cut()
    until(lambda: time.monotonic_ns() - cut_ns > 300 * MS)
    repaired_ns = time.monotonic_ns()
    wire.repair()
    until(lambda: traffic.snapshot().echo_ns > repaired_ns + 500 * MS and traffic.snapshot().alive() == 50)
    report = traffic.report()
    assert [connection.survived for connection in report.connections] == [True] * 50
    assert all(connection.stall_ns > 200 * MS for connection in report.connections)
    probe = report.probe
    assert 0 < probe.lost < probe.sent
    assert probe.first_lost is not None
    assert probe.last_lost is not None
    assert probe.first_lost < probe.last_lost
    assert probe.resumed_ns is not None
    assert probe.blackout_from_ns < repaired_ns < probe.resumed_ns
    assert probe.blackout_ns == probe.resumed_ns - probe.blackout_from_ns


def test_a_reset_that_only_the_server_sees_is_a_reset(wire: Wire) -> None:
    assert len(wire.traffic.open(3)) == 3
    until(lambda: wire.traffic.snapshot().alive() == 3)
    wire.cut()
    wire.server.run("ss", "--kill", "--tcp", "state", "established", "dst", CLIENT)
    until(lambda: wire.traffic.snapshot().last_ns == {})
    assert [connection.ended for connection in wire.traffic.report().connections] == ["ECONNABORTED"] * 3
    assert not any(connection.survived for connection in wire.traffic.report().connections)
    assert wire.traffic.snapshot().last_ns == {}


def test_only_the_server_speaks_after_hush(wire: Wire) -> None:
    wire.traffic.subscribe(2, interval_ms=20)
    until(lambda: wire.traffic.snapshot().flows_alive() == 2)
    wire.traffic.hush()
    wire.traffic.push(False)
    until(lambda: wire.traffic.snapshot().flows_alive() == 0)
    wire.traffic.push(True)
    until(lambda: wire.traffic.snapshot().flows_alive() == 2)
    assert wire.traffic.report().flows_alive == 2


def test_a_client_that_cannot_be_answered_ends_no_server(wire: Wire) -> None:
    """As in the moment in which a link goes down: the probe is there, and the way back is gone."""
    elsewhere = "198.51.100.1"
    wire.client.run("ip", "address", "add", f"{elsewhere}/32", "dev", "lo")
    send = f"import socket; s = socket.socket(2, 2); s.bind(('{elsewhere}', 0)); s.sendto(b'p' * 9, "
    wire.client.run("/usr/bin/python3", "-c", f"{send}('{SERVER}', {USUAL_PORTS.udp}))")
    wire.traffic.probe(1000)
    until(lambda: wire.traffic.snapshot().received > 20)


def test_a_refused_connection_is_not_opened(wire: Wire) -> None:
    assert wire.traffic.open(3, port=81) == ()


def test_a_dead_program_is_said_in_one_sentence(wire: Wire) -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, children):
        if b"import" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, 9)
    with pytest.raises(LabError, match="the traffic server in node server has ended"):
        wire.traffic.snapshot()
