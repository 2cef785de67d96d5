# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of real daemons whose heir is flooded by a local user: its failover is as fast as without, measured
in turns in one run, the agent stays small and answers, and says once what it has refused."""

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from dbus_next import Message
from dbus_next.aio import MessageBus

from agent.adapters import control
from agent.engine.refusals import AGAIN_S as REFUSED_AGAIN_S
from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from tests.netns.agent.engine import socket_attacks
from tests.netns.agent.engine.bus_attack import attack as attack_bus
from tests.netns.pair_checks import LINK_FAULT, SERVER, find, records, repair, until, wait_quiet, wait_record

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into the nodes' processes, which root may"),
]
ROUNDS = 3
SLOWER_MS = 20.0
MAX_MEMORY_KB = 64 << 10
Attack = Callable[[Lab, Node], AbstractContextManager[object]]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(sync=SyncMode.DIRECT), name="foreign") as started:
        yield started


def outside(node: Node, path: Path) -> Path:
    """The node's file, from here."""
    return Path(f"/proc/{node.pid}/root{path}")


def agent_pid(node: Node) -> int:
    """As this process sees it."""
    inner = node.service_pid("agent")
    assert inner is not None
    return inner


def agent_status(node: Node) -> dict[str, str]:
    pid = agent_pid(node)
    lines = outside(node, Path(f"/proc/{pid}/status")).read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def peak_kb(node: Node) -> int:
    return int(agent_status(node)["VmHWM"].split()[0])


async def find_on_bus(socket_path: Path, pid: int) -> str:
    """The unique name of the process."""
    bus = await MessageBus(bus_address=f"unix:path={socket_path}").connect()
    try:
        place = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")

        async def ask(member: str, signature: str = "", *body: str) -> object:
            destination, path, interface = place
            reply = await bus.call(
                Message(
                    destination=destination,
                    path=path,
                    interface=interface,
                    member=member,
                    signature=signature,
                    body=list(body),
                )
            )
            assert reply is not None
            return reply.body[0]

        names = await ask("ListNames")
        assert isinstance(names, list)
        own = {name: await ask("GetConnectionUnixProcessID", "s", name) for name in names if name[0] == ":"}
        (found,) = (name for name, owner in own.items() if owner == pid and name != bus.unique_name)
        return str(found)
    finally:
        bus.disconnect()
        await asyncio.gather(bus.wait_for_disconnect(), return_exceptions=True)


def bus_attack(kind: str) -> Attack:
    def begin(_lab: Lab, node: Node) -> AbstractContextManager[object]:
        place = outside(node, Paths().system_bus)
        return attack_bus(
            node.pid, Paths().system_bus, asyncio.run(find_on_bus(place, agent_pid(node))), kind
        )

    return begin


@contextmanager
def running(node: Node, program: str, *arguments: str) -> Iterator[None]:
    argv = ["/usr/bin/python3", "-Ic", program, *arguments]
    with node.popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


def socket_attack(program: str) -> Attack:
    return lambda _lab, node: running(node, program)


@contextmanager
def announcements(lab: Lab, _node: Node) -> Iterator[None]:
    """Through whichever firewall is primary."""
    with (
        running(lab.node("omarine"), socket_attacks.FTP_SINK, SERVER),
        running(lab.node("client"), socket_attacks.ANNOUNCEMENTS, SERVER),
    ):
        yield


def take_over(lab: Lab, heir: str) -> float:
    """From keepalived's notice at the heir to its open gate, in milliseconds, as the agent recorded it; all
    recovers afterwards, and the other one is primary."""
    victim = other(lab, heir)
    moment = lab.fail(victim, LINK_FAULT)
    done = wait_record(lab.node(heir), moment, 20, event="transition", to="primary", result="done")
    lab.heal(victim)
    lab.wait_settled(40)
    return float(str(done["notified_to_open_ms"]))


def answer_s(node: Node) -> float:
    begun = time.monotonic()
    assert control.ask_status(outside(node, Paths().control_socket))["role"]
    return time.monotonic() - begun


def just_said(node: Node) -> bool:
    """Whether something was refused so lately that more of it would only be counted."""
    return bool(find(records(node, time.monotonic_ns() - int(REFUSED_AGAIN_S * 1e9)), event="refused"))


ATTACKS: dict[str, tuple[Attack, str | None]] = {
    "signals of 31 MB": (bus_attack("large"), "which is not keepalived"),
    "30,000 signatures": (bus_attack("signatures"), "which is not keepalived"),
    "deep nesting": (bus_attack("deep"), "which is not keepalived"),
    "notices": (socket_attack(socket_attacks.NOTICES), "notices that come faster"),
    "questions": (socket_attack(socket_attacks.CONTROL), None),
    "addresses": (socket_attack(socket_attacks.ADDRESSES), None),
    "rules": (socket_attack(socket_attacks.RULES), None),
    "announcements": (announcements, "announcements of helpers"),
}
"""Each with what is recorded of it; None: nothing is lost by waiting."""


@pytest.mark.parametrize("name", ATTACKS)
def test_a_failover_under_a_flood_is_as_fast_as_without(lab: Lab, name: str) -> None:
    attack, words = ATTACKS[name]
    repair(lab)
    quiet, flooded, answers = [], [], []
    victim = other(lab, wait_quiet(lab))
    node = lab.node(victim)
    until(lambda: not just_said(node), 2 * REFUSED_AGAIN_S, "it still refuses")
    since = time.monotonic_ns()
    for _ in range(ROUNDS):
        with attack(lab, node):
            answers.append(answer_s(node))
            flooded.append(take_over(lab, victim))
            answers.append(answer_s(node))
        quiet.append(take_over(lab, other(lab, victim)))
    assert statistics.median(flooded) < statistics.median(quiet) + SLOWER_MS, (quiet, flooded)
    assert statistics.median(answers) < 1, answers
    assert peak_kb(node) < MAX_MEMORY_KB
    said = find(records(node, since), event="refused")
    took_s = (time.monotonic_ns() - since) / 1e9
    assert min(1, len(words or "")) <= len(said) <= 1 + took_s / REFUSED_AGAIN_S, (
        "once, then with its number"
    )
    assert all(str(words) in str(one["message"]) for one in said)
