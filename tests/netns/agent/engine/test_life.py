# SPDX-License-Identifier: GPL-2.0-or-later
"""What keepalived is and holds, judged from everything that speaks of it, with the real daemons: a witness
that is missing or lies closes no primary's gate, and opens no backup's."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from tests.netns.pair_checks import (
    LINK_FAULT,
    assert_consistent,
    find,
    gate_is_open,
    living,
    records,
    repair,
    until,
    wait_record,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into the nodes' processes, which root may"),
]

TWO_POLLS_S = 15.0
PID_FILE = str(Paths().vrrp_pid)
CONFIG = str(Paths().keepalived_config)


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with Lab.start(LabOptions(sync=SyncMode.DIRECT), name="life") as lab:
        yield lab


@pytest.fixture
def lab(started: Lab) -> Lab:
    """The same one for every test."""
    repair(started)
    return started


def restart_agent(node: Node) -> int:
    node.stop_service("agent", signal.SIGKILL)
    since = time.monotonic_ns()
    node.start_service("agent")
    return since


def said_by(lab: Lab, name: str) -> dict[str, Any]:
    agent = lab.status().node(name).agent
    assert agent is not None, f"{name}'s agent is silent"
    return dict(agent)


@contextmanager
def pid_file(node: Node, text: str | None) -> Iterator[None]:
    kept = node.read_text(PID_FILE)
    if text is None:
        node.run(["rm", PID_FILE])
    else:
        node.write_text(PID_FILE, text.replace("PARENT", node.read_text(Paths().keepalived_pid).strip()))
    try:
        yield
    finally:
        node.write_text(PID_FILE, kept)


@pytest.mark.parametrize(
    ("text", "bus"),
    [(None, "heard"), ("1\n", "heard"), ("PARENT\n", "heard"), (None, "dead"), ("PARENT\n", "dead")],
    ids=repr,
)
def test_no_pid_file_closes_the_gate_of_a_healthy_primary(lab: Lab, text: str | None, bus: str) -> None:
    primary = lab.wait_settled(30)
    node = lab.node(primary)
    with living(lab):
        if bus == "dead":
            node.stop_service("bus", signal.SIGKILL)
        with pid_file(node, text):
            since = restart_agent(node)
            moved = wait_record(node, since, 10, event="transition", result="done")
            assert (moved["from"], moved["to"]) == ("unknown", "primary")
            wait_record(node, since, TWO_POLLS_S, event="alarm", condition="pid-file")
            assert gate_is_open(node)
            assert [one["to"] for one in find(records(node, since), event="transition")] == ["primary"]
        wait_record(node, since, TWO_POLLS_S, event="recovered", condition="pid-file")
        if bus == "dead":
            lab.heal(primary)
            for name in (primary, other(lab, primary)):  # a restart is what heals keepalived's silence
                lab.node(name).stop_service("keepalived")
                lab.node(name).start_service("keepalived")
                lab.wait_settled(30)
        assert_consistent(lab, since)


def test_a_suspicion_is_taken_back(lab: Lab) -> None:
    """keepalived's parent is killed and another one started by hand, at once; the old child ends later and
    takes the new one's pid file with it."""
    primary = lab.wait_settled(30)
    node = lab.node(primary)
    since = time.monotonic_ns()
    with beside_what_is_left(node):
        wait_record(node, since, 2 * TWO_POLLS_S, event="alarm", condition="pid-file")
        until(lambda: roles(lab) == ["backup", "primary"], 30, lambda: f"roles {roles(lab)}")
        assert not {"keepalived", "orphaned-address"} & set(said_by(lab, primary)["problems"])
    lab.heal(primary)
    lab.wait_settled(30)
    assert_consistent(lab, since)


@contextmanager
def beside_what_is_left(node: Node) -> Iterator[None]:
    """A keepalived whose parent is killed; another one."""
    old = node.read_text(Paths().keepalived_pid).strip()
    files = [str(Paths().keepalived_pid), PID_FILE]
    argv = node.read_text(f"/proc/{old}/cmdline").split("\0")[:-1]
    node.run(["sh", "-c", 'kill -KILL "$1"; shift; rm "$@"', "sh", old, *files])
    with node.popen(argv) as new:
        try:
            yield
        finally:
            node.run(["kill", node.read_text(Paths().keepalived_pid).strip()])
            assert new.wait(10) == 0


def test_addresses_added_by_hand_open_no_gate(lab: Lab) -> None:
    primary = lab.wait_settled(30)
    backup = lab.node(other(lab, primary))
    vips = [vip.split("%") for vip in addresses(lab, primary)]
    assert len(vips) > 1
    since = time.monotonic_ns()
    try:
        for number, (address, interface) in enumerate(vips, 1):
            backup.run(["ip", "address", "add", address, "dev", interface])
            until(partial(has_seen, lab, backup.name, number), 5, "the address is not seen")
            alarm = wait_record(backup, since, TWO_POLLS_S, event="alarm", condition="contradiction")
            assert vips[0][0] in str(alarm["message"])
            assert not gate_is_open(backup)
        assert find(records(backup, since), event="transition") == []
    finally:
        for address, interface in vips:
            backup.run(["ip", "address", "del", f"{address}/32", "dev", interface], check=False)
    wait_record(backup, since, TWO_POLLS_S, event="recovered", condition="contradiction")
    assert_consistent(lab, since)


def addresses(lab: Lab, name: str) -> list[str]:
    return list(said_by(lab, name)["keepalived"]["addresses"])


def has_seen(lab: Lab, name: str, number: int) -> bool:
    return len(addresses(lab, name)) == number


def test_an_instance_that_keepalived_does_not_have(lab: Lab) -> None:
    """Both nodes have the same mistake. The primary is one, and names what it lacks."""
    primary = lab.wait_settled(30)
    kept = {name: lab.node(name).read_text(CONFIG) for name in lab.firewalls}
    since = time.monotonic_ns()
    try:
        for name in (other(lab, primary), primary):
            less = re.sub(
                r"^vrrp_instance VI_eth0_4 \{.*?^\}\n", "", kept[name], flags=re.DOTALL | re.MULTILINE
            )
            assert less != kept[name]
            lab.node(name).write_text(CONFIG, less.replace("        VI_eth0_4\n", ""))
            lab.node(name).stop_service("keepalived")
            lab.node(name).start_service("keepalived")
        for name in lab.firewalls:
            wait_record(lab.node(name), since, 30, event="alarm", condition="instances")
        until(lambda: roles(lab) == ["backup", "primary"], 30, lambda: f"roles {roles(lab)}")
        (serving,) = (name for name in lab.firewalls if said_by(lab, name)["role"] == "primary")
        alarm = wait_record(lab.node(serving), since, TWO_POLLS_S, event="alarm", condition="addresses")
        assert "%eth0" in str(alarm["message"])
        assert gate_is_open(lab.node(serving))
    finally:
        for name, text in kept.items():
            lab.node(name).write_text(CONFIG, text)
            lab.node(name).stop_service("keepalived")
            lab.node(name).start_service("keepalived")
    lab.wait_settled(40)
    assert_consistent(lab, since)


def test_an_instance_whose_object_keepalived_forgets(lab: Lab) -> None:
    """A reload that changes an instance loses its object: nothing is wrong with a primary that serves."""
    lab.wait_settled(30)
    kept = {name: lab.node(name).read_text(CONFIG) for name in lab.firewalls}
    since = time.monotonic_ns()
    try:
        for name, text in kept.items():
            peer = f"unicast_peer {{\n 192.168.2.{2 if name == lab.firewalls[0] else 1}\n}}\n"
            lab.node(name).write_text(CONFIG, re.sub(r"(?m)^( *interface eth1\n)", rf"\1{peer}", text))
            lab.node(name).signal_service("keepalived", signal.SIGHUP)
        until(partial(serves_forgotten, lab), 40, lambda: f"{[said_by(lab, n) for n in lab.firewalls]}")
        node = lab.node(lab.wait_settled(30))
        alarm = wait_record(node, since, TWO_POLLS_S, event="alarm", condition="instances-forgotten")
        assert "restart of keepalived" in str(alarm["message"])
        assert gate_is_open(node)
    finally:
        for name, text in kept.items():
            lab.node(name).write_text(CONFIG, text)
            lab.node(name).stop_service("keepalived")
            lab.node(name).start_service("keepalived")
    wait_record(node, since, 30, event="recovered", condition="instances-forgotten")
    lab.wait_settled(40)
    assert_consistent(lab, since)


def serves_forgotten(lab: Lab) -> bool:
    """Some node is primary with the warning, and without what would be critical."""
    said = [said_by(lab, name) for name in lab.firewalls]
    return any(
        one["role"] == "primary"
        and set(one["problems"]) & {"instances", "instances-forgotten"} == {"instances-forgotten"}
        for one in said
    )


def roles(lab: Lab) -> list[str]:
    return sorted(str(said_by(lab, name)["role"]) for name in lab.firewalls)


def test_a_keepalived_that_is_stopped_by_a_signal(lab: Lab) -> None:
    primary = lab.wait_settled(30)
    backup = lab.node(other(lab, primary))
    vrrp = backup.read_text(PID_FILE).strip()
    since = time.monotonic_ns()
    backup.run(["kill", "-STOP", vrrp])
    try:
        for condition in ("keepalived-stopped", "instances"):
            wait_record(backup, since, TWO_POLLS_S, event="alarm", condition=condition)
        assert "bus" not in said_by(lab, backup.name)["problems"]
    finally:
        backup.run(["kill", "-CONT", vrrp])
    for condition in ("keepalived-stopped", "instances"):
        wait_record(backup, since, TWO_POLLS_S, event="recovered", condition=condition)
    assert_consistent(lab, since)


def test_a_main_process_that_is_stopped_by_a_signal(lab: Lab) -> None:
    """It speaks no VRRP, so the primary stays one, with its gate open; but nobody starts what dies."""
    primary = lab.wait_settled(30)
    node = lab.node(primary)
    main = node.read_text(Paths().keepalived_pid).strip()
    since = time.monotonic_ns()
    node.run(["kill", "-STOP", main])
    try:
        alarm = wait_record(node, since, TWO_POLLS_S, event="alarm", condition="keepalived-main")
        assert f"kill -CONT {main}" in str(alarm["message"])
        assert gate_is_open(node)
        assert said_by(lab, primary)["role"] == "primary"
    finally:
        node.run(["kill", "-CONT", main])
    wait_record(node, since, TWO_POLLS_S, event="recovered", condition="keepalived-main")
    assert find(records(node, since), event="alarm", condition="keepalived-stopped") == []
    assert_consistent(lab, since)


def test_a_bus_that_hangs(lab: Lab) -> None:
    """It is not keepalived that is silent then, and the addresses are followed."""
    primary = lab.wait_settled(30)
    node = lab.node(primary)
    since = node.signal_service("bus", signal.SIGSTOP)
    try:
        alarm = wait_record(node, since, TWO_POLLS_S, event="alarm", condition="bus")
        assert "does not answer" in str(alarm["message"])
        assert find(records(node, since), condition="instances") == []
        assert gate_is_open(node)
    finally:
        node.signal_service("bus", signal.SIGCONT)
    wait_record(node, since, TWO_POLLS_S, event="recovered", condition="bus")
    assert_consistent(lab, since)


def test_an_agent_that_was_stopped_says_so_and_counts_it_in(lab: Lab) -> None:
    """It is stopped, the pair fails over, and it continues: the records have the time outside."""
    primary = lab.wait_settled(30)
    heir = lab.node(other(lab, primary))
    since = heir.signal_service("agent", signal.SIGSTOP)
    try:
        begun = time.monotonic()
        asked = heir.run(["hafw", "status"], check=False)
        assert time.monotonic() - begun < 5, "ten seconds before"
        assert asked.returncode == 3
        assert "does not answer" in asked.stderr
        lab.fail(primary, LINK_FAULT)
        lab.wait_primary(heir.name, 10)
        until(lambda: time.monotonic_ns() - since > 6_000_000_000, 10, "the clock does not advance")
    finally:
        back = heir.signal_service("agent", signal.SIGCONT)
    done = wait_record(heir, since, 10, event="transition", to="primary", result="done")
    outside_ms = (back - since) / 1e6
    assert 1000 < float(str(done["duration_ms"])) < outside_ms + 3000
    assert "the agent itself was stopped for" in str(done["message"])
    stall = wait_record(heir, since, 10, event="alarm", condition="stall")
    assert "was stopped for" in str(stall["message"])
    wait_record(heir, back, TWO_POLLS_S, event="recovered", condition="stall")
    lab.heal(primary)
    lab.wait_settled(30)
    assert_consistent(lab, since)


def test_readiness_is_restored(lab: Lab) -> None:
    node = lab.node(other(lab, lab.wait_settled(30)))
    kept = node.read_text(Paths().readiness)
    since = time.monotonic_ns()
    node.write_text(Paths().readiness, "-200\n")
    wait_record(node, since, TWO_POLLS_S, event="alarm", condition="readiness")
    assert node.read_text(Paths().readiness) == kept
    wait_record(node, since, TWO_POLLS_S, event="recovered", condition="readiness")
