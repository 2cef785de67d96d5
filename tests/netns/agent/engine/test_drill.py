# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw drill` on a living pair with the real daemons."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.measure.planned import wait_calm
from hafw_lab.measure.states import wait_replicated
from hafw_lab.model.topology_file import load_topology
from hafw_lab.traffic.session import start_traffic
from tests.checkout import ROOT
from tests.netns.pair_checks import (
    SERVER,
    find,
    find_problems,
    gate_is_open,
    records,
    until,
    wait_record,
)

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

TOPOLOGY = ROOT / "host-tools" / "topologies" / "dual-stack.yaml"
CONNECTIONS = 5
SLOW_MS = 1000
LIMIT_S = 120
LATE_S = 30


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Addresses of both versions. A keepalived that is late on a busy machine does not change the primary by
    itself."""
    options = LabOptions(sync=SyncMode.DIRECT, advert_interval_ms=SLOW_MS)
    with Lab.start(options, load_topology(TOPOLOGY), name="drill") as started:
        yield started


def both(lab: Lab) -> tuple[Node, Node]:
    """The primary, and the other node."""
    primary = wait_calm(lab)
    return lab.node(primary), lab.node(other(lab, primary))


def problems_of(lab: Lab) -> list[str]:
    """But for the process that has answered for the peer, which the agent forgets with the next one."""
    return [one for one in find_problems(lab) if "processes" not in one]


def reports(node: Node) -> list[str]:
    found = node.run(["sh", "-c", f"cat {Paths().drills}/*.json 2>/dev/null"], check=False).stdout
    return [one for one in found.split("\n}\n") if one]


def test_it_ends_with_the_same_primary_and_loses_nothing(lab: Lab) -> None:
    node, peer = both(lab)
    since = time.monotonic_ns()
    with start_traffic(lab.node("client"), lab.node("omarine"), SERVER, push_interval_ms=1) as traffic:
        assert len(traffic.open(CONNECTIONS)) == CONNECTIONS
        wait_replicated(peer, SyncMode.DIRECT, CONNECTIONS, lambda _: None)
        traffic.talk(interval_ms=1)
        traffic.probe(1000)
        traffic.mark()
        done = node.run(["hafw", "drill", "--yes", "--json"], timeout_s=LIMIT_S, check=False)
        assert done.returncode == 0, done
        found = json.loads(done.stdout)
        assert lab.wait_primary(node.name, 5) == node.name
        report = traffic.report()
        assert report.probe.lost == 0
        assert sum(one.lost for one in report.connections) == 0
        assert all(one.survived for one in report.connections)
    assert (found["ending"], found["node"], found["peer"]) == ("done", node.name, peer.name)
    assert found["connections"] == {"before": CONNECTIONS, "after": CONNECTIONS}
    assert {one["address"] for one in found["addresses"]} == {vip.partition("%")[0] for vip in lab.vips}
    for one in found["addresses"]:
        assert one["away_ms"] > 0, one
        assert one["back_ms"] > 0, one
        assert 0 < one["answered"] <= one["asked"], one
    for leg in ("away", "back"):
        assert found[leg]["error"] is None
        assert found[leg]["seconds"] > 0
    (record,) = find(records(node, since), event="drill")
    assert found["text"] in str(record["message"])
    assert json.loads(f"{reports(node)[-1]}\n}}") == found
    until(lambda: not problems_of(lab), LATE_S, lambda: f"the pair is not consistent: {problems_of(lab)}")


def test_a_pair_that_is_not_fit_has_none(lab: Lab) -> None:
    node, peer = both(lab)
    refused = peer.run(["hafw", "drill", "--yes"], check=False)
    assert refused.returncode == 1
    assert f"{peer.name} is not primary but backup; a drill begins on the primary" in refused.stderr
    since, before = time.monotonic_ns(), reports(node)
    silent = node.run(["hafw", "drill"], check=False)
    assert silent.returncode == 1
    assert "add --yes" in silent.stderr
    peer.stop_service("conntrackd")
    try:
        wait_record(peer, since, 20, event="alarm", condition="conntrackd")
        until(lambda: is_refused(node, peer), LATE_S, "the drill is not refused")
    finally:
        peer.start_service("conntrackd")
    assert not find(records(node, since), event="handover")
    assert not find(records(node, since), event="transition")
    assert (lab.primary(), gate_is_open(peer), reports(node)) == (node.name, False, before)


def is_refused(node: Node, peer: Node) -> bool:
    """As soon as the node has heard of it; a drill that begins before would be seen by its records."""
    status = json.loads(node.run(["hafw", "status", "--json"], check=False).stdout)
    if "conntrackd" not in status["nodes"][peer.name]["problems"]:
        return False
    done = node.run(["hafw", "drill", "--yes"], check=False)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert f"{peer.name} has the problem conntrackd" in done.stderr
    return True


def test_it_asks_first(lab: Lab) -> None:
    node, _ = both(lab)
    since, before = time.monotonic_ns(), reports(node)
    terminal, end = pty.openpty()
    try:
        drill = node.popen(["hafw", "drill"], stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.write(terminal, b"n\n")
        said, complained = drill.communicate(timeout=LIMIT_S)
    finally:
        os.close(terminal)
        os.close(end)
    assert (drill.returncode, complained) == (1, b"")
    assert "Begin? [y/N] Nothing was done." in said.decode()
    assert not find(records(node, since), event="handover")
    assert reports(node) == before


def test_a_terminal_that_is_gone_does_not_leave_it_half_done(lab: Lab) -> None:
    node, peer = both(lab)
    since = time.monotonic_ns()
    drill = node.popen(["hafw", "drill", "--yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert drill.stdout is not None
    wait_record(peer, since, LATE_S, event="transition", to="primary")
    drill.stdout.close()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        os.kill(inner_pid(drill.pid), number)
    assert drill.wait(LIMIT_S) == 0
    assert lab.wait_primary(node.name, 5) == node.name
    assert find(records(node, since), event="drill")


def inner_pid(pid: int) -> int:
    """Of the program in the node, behind those that have entered it."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def test_what_cannot_be_handed_back_stays_and_says_which_command_is_for_later(lab: Lab) -> None:
    node, peer = both(lab)
    since = time.monotonic_ns()
    drill = node.popen(
        ["hafw", "drill", "--yes", "--wait", "5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_record(peer, since, LATE_S, event="transition", to="primary")
    node.stop_service("conntrackd")
    said, _ = drill.communicate(timeout=LIMIT_S)
    node.start_service("conntrackd")
    assert drill.returncode == 3, said
    assert said.decode().splitlines()[-1].endswith(f"on {peer.name}: hafw handover")
    assert lab.wait_primary(peer.name, 5) == peer.name
    (record,) = find(records(node, since), event="drill")
    assert "has not handed back" in str(record["message"])
