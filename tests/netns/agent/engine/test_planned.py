# SPDX-License-Identifier: GPL-2.0-or-later
"""Planned handovers with the real daemons: nothing is lost, and whatever dies in the middle, one node is
primary."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.client.lab import POWER, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.measure.planned import measure_handover, wait_calm
from hafw_lab.measure.states import wait_replicated
from hafw_lab.traffic.session import Traffic, start_traffic
from tests.netns.pair_checks import (
    SERVER,
    assert_consistent,
    assert_flows,
    find,
    gate_is_open,
    records,
    until,
    wait_record,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into the nodes' processes, which root may"),
]

CONNECTIONS = 5
SLOW_MS = 1000
"""Between the end of one primary and the next one is then time to break something."""
ASKED, GIVEN = "the gate is open for it", "this node gives up the addresses"


def start_pair(**changes: object) -> Iterator[Lab]:
    with Lab.start(LabOptions(sync=SyncMode.DIRECT, **changes)) as lab:  # type: ignore[arg-type]  # named
        yield lab


@pytest.fixture(scope="module")
def slow() -> Iterator[Lab]:
    yield from start_pair(advert_interval_ms=SLOW_MS)


def open_all(lab: Lab, traffic: Traffic) -> None:
    assert len(traffic.open(CONNECTIONS)) == CONNECTIONS
    backup = lab.node(other(lab, lab.wait_primary(None, 5)))
    wait_replicated(backup, SyncMode.DIRECT, CONNECTIONS, lambda _: None)


def begin(lab: Lab) -> tuple[Node, Node, "subprocess.Popen[bytes]", int]:
    """A handover that is under way: the addresses are at no node. Returns the old primary and its heir."""
    primary = wait_calm(lab)
    old, heir = lab.node(primary), lab.node(other(lab, primary))
    since = time.monotonic_ns()
    asking = old.popen(["hafw", "handover"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_handover(heir, since, ASKED)
    wait_handover(old, since, GIVEN)
    return old, heir, asking, since


def wait_handover(node: Node, since: int, words: str) -> None:
    until(
        lambda: any(words in str(one["message"]) for one in find(records(node, since), event="handover")),
        10,
        lambda: f"{node.name} recorded no {words!r}",
    )


def end(asking: "subprocess.Popen[bytes]") -> tuple[int, str]:
    said, complained = asking.communicate(timeout=60)
    return asking.returncode, (said + complained).decode()


@pytest.mark.parametrize("preempt", [False, True])
def test_a_handover_each_way_loses_no_packet(preempt: bool) -> None:
    for lab in start_pair(preempt=preempt):
        since = time.monotonic_ns()
        with start_traffic(lab.node("client"), lab.node("omarine"), SERVER, push_interval_ms=1) as traffic:
            open_all(lab, traffic)
            traffic.talk(interval_ms=1)
            traffic.probe(1000)
            for _ in range(2):
                run = measure_handover(lab, traffic)
                assert run.probes > 1000
                assert (run.udp_lost, run.tcp_lost) == (0, 0)
                assert lab.primary() == run.to_node
            assert all(one.survived for one in traffic.report().connections)
        assert_consistent(lab, since)
        for name in lab.firewalls:
            assert find(records(lab.node(name), since), event="handover")


def test_a_node_that_is_not_ready_is_handed_nothing() -> None:
    for lab in start_pair():
        primary = wait_calm(lab)
        node, backup = lab.node(primary), lab.node(other(lab, primary))
        since = time.monotonic_ns()
        backup.stop_service("conntrackd")
        wait_record(backup, since, 20, event="alarm", condition="conntrackd")
        wait_heard(node, "conntrackd")
        done = node.run(["hafw", "handover"], check=False)
        assert done.returncode == 1
        assert f"{backup.name} has the problem conntrackd" in done.stderr
        assert "--force" in done.stderr
        assert lab.primary() == primary
        assert not gate_is_open(backup)
        refused = backup.run(["hafw", "handover"], check=False)
        assert (refused.returncode, "is not primary" in refused.stderr) == (1, True)
        forced = node.run(["hafw", "handover", "--force", "--json"], check=False)
        assert forced.returncode == 0, forced
        assert json.loads(forced.stdout)["objections"]
        assert lab.wait_primary(backup.name, 5) == backup.name


def wait_heard(node: Node, problem: str) -> None:
    """Until the node knows of the peer's problem."""

    def is_heard() -> bool:
        status = json.loads(node.run(["hafw", "status", "--json"], check=False).stdout)
        return problem in (status["nodes"][status["peer"]] or {}).get("problems", ())

    until(is_heard, 10, f"{node.name} does not know of {problem}")


def test_a_peer_that_dies_in_the_middle_leaves_this_node_primary(slow: Lab) -> None:
    with start_traffic(slow.node("client"), slow.node("omarine"), SERVER) as traffic:
        open_all(slow, traffic)
        old, heir, asking, since = begin(slow)
        slow.fail(heir.name, POWER)
        assert gate_is_open(old)
        assert slow.wait_primary(old.name, 20) == old.name
        status, said = end(asking)
        assert (status, "did not take over" in said) == (1, True), said
        assert "SwitchRules" not in str(find(records(old, since), step="LoadRules"))
        assert_flows(traffic, CONNECTIONS)
        assert all(one.survived for one in traffic.report().connections)
    slow.heal(heir.name)
    slow.wait_settled(30)


def test_an_agent_that_dies_in_the_middle_leaves_one_primary(slow: Lab) -> None:
    with start_traffic(slow.node("client"), slow.node("omarine"), SERVER) as traffic:
        open_all(slow, traffic)
        old, heir, asking, _ = begin(slow)
        old.signal_service("agent", signal.SIGKILL)
        status, said = end(asking)
        assert (status, "the agent" in said) == (1, True), said
        assert slow.wait_primary(heir.name, 20) == heir.name
        old.start_service("agent")
        assert slow.wait_settled(40) == heir.name
        assert_flows(traffic, CONNECTIONS)
        assert all(one.survived for one in traffic.report().connections)


def test_an_agent_that_dies_with_the_addresses_given_up_comes_back_and_takes_part(slow: Lab) -> None:
    primary = wait_calm(slow)
    node = slow.node(primary)
    node.stop_service("agent", signal.SIGKILL)
    node.write_text(Paths().readiness, "-254\n")
    assert slow.wait_primary(other(slow, primary), 20) != primary
    node.start_service("agent")
    slow.wait_settled(40)
    slow.fail(other(slow, primary), POWER)
    assert slow.wait_primary(primary, 20) == primary
    slow.heal(other(slow, primary))
    slow.wait_settled(30)


def test_an_agent_that_is_stopped_in_the_middle_leaves_no_fault_and_no_open_gate(slow: Lab) -> None:
    old, heir, asking, _ = begin(slow)
    old.stop_service("agent")
    end(asking)
    assert old.read_text(Paths().readiness).strip() != "-254"
    assert not gate_is_open(old)
    assert slow.wait_primary(heir.name, 20) == heir.name
    old.start_service("agent")
    assert slow.wait_settled(40) == heir.name


def test_a_node_that_has_handed_over_stands_back_with_its_next_agent_too() -> None:
    for lab in start_pair(preempt=True, advert_interval_ms=SLOW_MS):
        primary = wait_calm(lab)
        old, heir = lab.node(primary), other(lab, primary)
        done = old.run(["hafw", "handover"], check=False)
        assert done.returncode == 0, done
        number = old.read_text(Paths().readiness)
        old.stop_service("agent")
        old.start_service("agent")
        assert wait_calm(lab) == heir
        assert old.read_text(Paths().readiness) == number
        lab.fail(heir, POWER)
        assert lab.wait_primary(primary, 20) == primary
        lab.heal(heir)
        assert wait_calm(lab) == primary
        assert old.read_text(Paths().readiness) == "0\n"


def test_a_channel_that_dies_in_the_middle_leaves_one_primary(slow: Lab) -> None:
    with start_traffic(slow.node("client"), slow.node("omarine"), SERVER) as traffic:
        open_all(slow, traffic)
        old, heir, asking, _ = begin(slow)
        for node in (old, heir):
            node.signal_service("channel", signal.SIGSTOP)
        status, said = end(asking)
        for node in (old, heir):
            node.signal_service("channel", signal.SIGCONT)
        assert (status, "was not heard" in said) == (1, True), said
        assert slow.wait_primary(heir.name, 5) == heir.name
        assert not gate_is_open(old)
        assert slow.wait_settled(40) == heir.name
        assert_flows(traffic, CONNECTIONS)
        assert all(one.survived for one in traffic.report().connections)


def test_a_gate_that_was_opened_for_nothing_closes_again(slow: Lab) -> None:
    primary = wait_calm(slow)
    old, heir = slow.node(primary), slow.node(other(slow, primary))
    since = time.monotonic_ns()
    heir.signal_service("channel", signal.SIGSTOP)
    try:
        done = old.run(["hafw", "handover"], check=False)
        assert done.returncode == 1
    finally:
        heir.signal_service("channel", signal.SIGCONT)
    until(lambda: not gate_is_open(heir), 20, "the gate stays open")
    assert slow.primary() == primary
    assert not find(records(old, since), event="transition")
