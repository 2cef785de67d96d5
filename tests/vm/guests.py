# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of booted machines have in common: who is who, living connections, packets that nobody may
forward."""

import json
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from hafw_lab.client.lab import Lab
from hafw_lab.measure.states import holds_connection
from hafw_lab.model.topology import DEFAULT, compute_mac
from hafw_lab.traffic.session import Traffic, start_traffic

FIREWALLS = ("fw-1", "fw-2")
SERVER = "192.168.0.3"
CONNECTIONS = 10
Say = Callable[[str], None]
StartPair = Callable[[str, str], AbstractContextManager[Lab]]
"""A pair of machines with these releases, for the length of the block."""

PATIENCE_S = 300.0
"""Machines without KVM, on a machine that has other work to do: never the reason for a test to fail."""
PEER_CONDITIONS = ("peer", "peer-path", "peer-key")
PATHS = 3
"""The sync link and two data links."""
_PUSH_MS = 100
"""Every ten milliseconds would take a third of the processor of a firewall without KVM, and what is looked
at is whether a connection lives."""
ALLOWED, DENIED = 5353, 9999
_STRAY_TO = {"fw-1": "192.168.0.33", "fw-2": "192.168.0.34"}

_SEND = """
import socket, sys, time
ends = [(address, int(port)) for address in sys.argv[3:] for port in sys.argv[1:3]]
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind(("", 40000))
while True:
    for end in ends:
        try:
            sender.sendto(b"stray", end)
        except OSError:
            pass
    time.sleep(0.05)
"""
# below the kernel's own opinion about sources that it knows no way back to
_COUNT = """
import json, select, socket, struct, sys
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
tap.bind(("eth0", 0x0800))
counts = {}
print("{}", flush=True)
while True:
    ready, _, _ = select.select([tap, sys.stdin], [], [])
    if sys.stdin in ready:
        if not sys.stdin.readline():
            break
        print(json.dumps(counts), flush=True)
    if tap in ready:
        packet = tap.recv(2048)
        head = (packet[0] & 15) * 4
        to, port = socket.inet_ntoa(packet[16:20]), struct.unpack("!H", packet[head + 2 : head + 4])[0]
        if packet[9] == 17 and to in sys.argv[1:]:
            key = f"{to} {port}"
            counts[key] = counts.get(key, 0) + 1
"""


def peer_of(name: str) -> str:
    return FIREWALLS[1 - FIREWALLS.index(name)]


def wait_until(what: str, is_so: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    until = time.monotonic() + timeout_s
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        pause.wait(0.3)


def shell(lab: Lab, name: str, script: str, *, timeout_s: float = 40) -> str:
    """Raises LabError when it fails."""
    return lab.node(name).run(["sh", "-ec", script], timeout_s=timeout_s).stdout.strip()


def records(lab: Lab, name: str, event: str) -> list[dict[str, Any]]:
    """Of the agent on `name`, since it booted."""
    return [dict(one) for one in lab.node(name).agent_records() if one["event"] == event]


def about_the_peer(lab: Lab, name: str) -> dict[str, str]:
    """What the agent on `name` has to say against the other node and the ways to it: condition -> text."""
    values = json.loads(shell(lab, name, "hafw status --json || true"))
    return {one: text for one, text in values.get("problems", {}).items() if one in PEER_CONDITIONS}


def wait_acquainted(lab: Lab) -> None:
    """Both agents hear each other by every path."""
    for name in lab.firewalls:
        wait_until(
            f"{name} hears {peer_of(name)} by every path",
            lambda name=name: not about_the_peer(lab, name) and knows_its_peer(lab, name),  # type: ignore[misc]  # mypy does not see into defaults of lambdas
        )


def knows_its_peer(lab: Lab, name: str) -> bool:
    nodes = json.loads(shell(lab, name, "hafw status --json || true")).get("nodes") or {}
    return nodes.get(peer_of(name)) is not None and len(nodes[name]["heard"]) == PATHS


@contextmanager
def living_connections(lab: Lab, name: str) -> Iterator[Traffic]:
    """Traffic with open connections whose states `name`, the backup, has."""
    ends = lab.node("client"), lab.node("omarine")
    clocks = ends[0].measure_clock(), ends[1].measure_clock()
    with start_traffic(*ends, SERVER, clocks=clocks, push_interval_ms=_PUSH_MS) as traffic:
        opened = traffic.open(CONNECTIONS, timeout_s=60)
        assert len(opened) == CONNECTIONS
        for port in (opened[0], opened[-1]):
            wait_until(
                f"{name} has the state of the connection from port {port}",
                lambda port=port: holds_connection(lab.node(name), "192.168.2.10", port, SERVER, 22),  # type: ignore[misc]  # mypy does not see into defaults of lambdas
            )
        traffic.probe(25)
        yield traffic


def wait_all_alive(traffic: Traffic) -> None:
    """A connection that was reset never comes back."""
    wait_until("all connections flow", lambda: traffic.snapshot().alive(1500) == CONNECTIONS)


def longest_stall_ms(traffic: Traffic) -> float:
    return max(one.stall_ns for one in traffic.report().connections) / 1e6


def hand_over(lab: Lab) -> str:
    """The backup becomes primary. Returns it."""
    primary = lab.wait_settled(PATIENCE_S)
    shell(lab, primary, "systemctl restart keepalived")
    lab.wait_primary(peer_of(primary), PATIENCE_S)
    return lab.wait_settled(PATIENCE_S)


class Strays:
    """Packets that the client sends straight to each firewall, without the virtual address, whatever their
    roles are: one flow that the policy allows, one that it does not. Counts what reaches the server."""

    def __init__(self, counter: subprocess.Popen[bytes]) -> None:
        self._counter = counter
        self._read()
        self._forgotten = 0

    def forbidden(self) -> int:
        """How many have arrived that the policy does not allow, since `forget` was called."""
        return sum(self.arrived(name, DENIED) for name in FIREWALLS) - self._forgotten

    def forget(self) -> None:
        self._forgotten += self.forbidden()

    def arrived(self, firewall: str, port: int) -> int:
        assert self._counter.stdin is not None
        self._counter.stdin.write(b"\n")
        self._counter.stdin.flush()
        return int(self._read().get(f"{_STRAY_TO[firewall]} {port}", 0))

    def _read(self) -> dict[str, int]:
        assert self._counter.stdout is not None
        ready, _, _ = select.select([self._counter.stdout], [], [], PATIENCE_S)
        assert ready, "the counter does not answer"
        found: dict[str, int] = json.loads(self._counter.stdout.readline())
        return found


@contextmanager
def start_strays(lab: Lab) -> Iterator[Strays]:
    client, server = lab.node("client"), lab.node("omarine")
    for name, address in _STRAY_TO.items():
        spec = DEFAULT.node(name)
        assert spec is not None
        link = spec.link("eth1")
        assert link is not None
        way = str(link.addresses[0].ip)
        server.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
        client.run(["ip", "route", "add", address, "via", way])
        # a firewall that boots does not answer who has its address, and gets the packets all the same
        mac = compute_mac(name, "eth1")
        client.run(["ip", "neighbor", "replace", way, "lladdr", mac, "dev", "eth0", "nud", "permanent"])
    with ExitStack() as stack:
        counter = server.popen(
            ["/usr/bin/python3", "-c", _COUNT, *_STRAY_TO.values()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        stack.enter_context(counter)
        stack.callback(counter.kill)
        strays = Strays(counter)
        sender = client.popen(
            ["/usr/bin/python3", "-c", _SEND, str(ALLOWED), str(DENIED), *_STRAY_TO.values()]
        )
        stack.enter_context(sender)
        stack.callback(sender.kill)
        yield strays
