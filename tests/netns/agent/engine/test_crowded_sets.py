# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets that outsiders have filled: what a look at the rules costs the agent then, and that it misses
nothing. A real agent and a real nft.

The elements are put in by nft; packets from as many addresses would do the same.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.adapters import control
from tests.checkout import ROOT
from tests.netns.machine import Machine, start_agent, start_machine
from tests.netns.namespaces import Namespace
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

LIMITED = "  - {from: client, to: server, name: few, allow: [{tcp: 7}], limit: 1/hour burst 6 per source}\n"
PAIR = (ROOT / "examples" / "pair.yaml").read_text().replace("policy:\n", "policy:\n" + LIMITED)
CONTROL = "run/hafw/control.sock"
MAX_MIB = 64
PATIENCE_S = 60.0
SOURCES = {
    4: [f"10.{one >> 8}.{one & 255}.1" for one in range(65_535)],
    6: [f"2001:db8:0:{one + 1:x}::" for one in range(65_535)],
}


@pytest.fixture
def machine() -> Iterator[Machine]:
    with start_machine() as started:
        started.write("/etc/hafw/hafw.yaml", PAIR)
        yield started


def fill(machine: Machine) -> None:
    for version, sources in SOURCES.items():
        text = f"add element inet hafw limit/few/{version} {{ {', '.join(sources)} }}\n"
        machine.write("/run/full.nft", text)
        machine.must("nft", "-f", "/run/full.nft")


def is_full(machine: Machine) -> bool:
    return all(
        machine.must("nft", "list", "set", "inet", "hafw", f"limit/few/{version}").count("expires") > 60_000
        for version in SOURCES
    )


def process(machine: Machine) -> Path:
    return Path(machine.root, "proc", machine.read("/run/hafw/agent.lock").strip())


def peak_mib(machine: Machine) -> float:
    lines = (process(machine) / "status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(found) / 1024


def time_status(machine: Machine) -> float:
    """Seconds; the best of some."""
    taken = []
    for _ in range(5):
        begun = time.monotonic()
        assert control.ask_status(machine.root / CONTROL)["rules"]["intact"]
        taken.append(time.monotonic() - begun)
    return min(taken)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, flags: int, family: int, body: bytes = b"") -> bytes:
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, 1, 0, family, 0, socket.htons(10)) + body


@contextmanager
def table_of_an_owner(machine: Machine) -> Iterator[None]:
    """A table that belongs to a socket, as firewalld makes it; the JSON of nft 1.0.6 breaks off at it."""
    new = attribute(1, b"theirs\0") + attribute(2, struct.pack(">I", 2))
    batch = message(16, 1, 0) + message(0x0A00, 0x401, 1, new) + message(17, 1, 0)
    network = os.open(f"/proc/{machine.pid}/ns/net", os.O_RDONLY)
    try:
        with Namespace("machine", network).entered():
            owner = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        with owner:
            owner.send(batch)
            assert "table inet theirs" in machine.must("nft", "list", "tables")
            yield
    finally:
        os.close(network)


def edit(machine: Machine, command: str, what: str) -> None:
    """Until the agent has reported `what` another program did, and put back what was there."""
    since = time.monotonic_ns()
    machine.must("nft", *command.split())

    def events(event: str) -> list[str]:
        found = [one for one in machine.records() if one["mono_ns"] >= since and one["event"] == event]
        return [one["message"] for one in found]

    until(lambda: bool(events("recovered")), PATIENCE_S, lambda: f"{command}: {machine.records()[-3:]}")
    assert any(what in text for text in events("alarm")), events("alarm")


def test_a_look_at_full_sets_costs_what_one_at_empty_sets_does(machine: Machine) -> None:
    with start_agent(machine):
        until(lambda: machine.digest() is not None, PATIENCE_S, "the agent loads nothing")
        empty_s = time_status(machine)
        fill(machine)
        (process(machine) / "clear_refs").write_text("5")
        assert time_status(machine) < 3 * empty_s
        edit(machine, "insert rule inet hafw input tcp dport 23 accept", "chain input has more")
        edit(machine, "delete element inet hafw data { eth1 }", "set data has less: eth1")
        machine.write("/etc/hafw/hafw.yaml", PAIR.replace("allow: [", "allow: [smtp, "))
        machine.rules("apply")
        assert peak_mib(machine) < MAX_MIB
        assert is_full(machine), "what was counted of the sources is lost"


def test_a_restarted_agent_does_not_read_full_sets(machine: Machine) -> None:
    with start_agent(machine):
        until(lambda: machine.digest() is not None, PATIENCE_S, "the agent loads nothing")
        fill(machine)
    (machine.root / CONTROL).unlink()
    with start_agent(machine):
        until(
            lambda: bool(control.ask_status(machine.root / CONTROL)["rules"]["intact"]),
            PATIENCE_S,
            "not intact",
        )
        assert peak_mib(machine) < MAX_MIB
        assert is_full(machine)


def test_changes_are_seen_beside_a_table_that_nft_cannot_print(machine: Machine) -> None:
    with start_agent(machine):
        until(lambda: machine.digest() is not None, PATIENCE_S, "the agent loads nothing")
        with table_of_an_owner(machine):
            edit(machine, "insert rule inet hafw input tcp dport 23 accept", "chain input has more")
            edit(machine, "delete element inet hafw data { eth1 }", "set data has less: eth1")
            assert control.ask_status(machine.root / CONTROL)["rules"]["intact"]
