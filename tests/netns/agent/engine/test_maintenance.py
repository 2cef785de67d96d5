# SPDX-License-Identifier: GPL-2.0-or-later
"""A node in maintenance, with the real daemons: it hands over, and is primary where there is no other."""

import json
import os
from collections.abc import Iterator

import pytest

from hafw_lab.client.lab import POWER, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.measure.planned import wait_calm
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

LATE_S = 30


@pytest.fixture
def lab() -> Iterator[Lab]:
    """With preempt the node of the higher priority would take over again at each chance."""
    with Lab.start(LabOptions(preempt=True), name="maintenance") as started:
        yield started


def hafw(node: Node, *arguments: str) -> str:
    done = node.run(["/usr/sbin/hafw", *arguments], timeout_s=60, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def said(node: Node) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(
        node.run(["/usr/sbin/hafw", "status", "--json"], check=False).stdout
    )["nodes"]
    return found


def restart(node: Node) -> None:
    """As a boot does. (A node of the lab that loses its power loses its disk.)"""
    for service in ("keepalived", "agent"):
        node.stop_service(service)
    node.run(["rm", "/run/hafw/ready"])
    for service in ("agent", "keepalived"):
        node.start_service(service)


def shows(where: Node, node: Node) -> bool:
    return "a new disk" in str(said(where)[node.name]["maintenance"])


def test_it_hands_over_and_comes_back_as_a_backup_until_it_is_over(lab: Lab) -> None:
    wait_calm(lab)
    primary = lab.wait_primary(None, 10)
    node, peer = lab.node(primary), lab.node(other(lab, primary))
    assert "in maintenance since" in hafw(node, "maintenance", "on", "--reason", "a new disk")
    assert lab.wait_primary(peer.name, 10) == peer.name
    until(lambda: all(shows(one, node) for one in (node, peer)), LATE_S, "it is not shown on both nodes")
    restart(node)
    wait_calm(lab)
    assert lab.wait_primary(None, 10) == peer.name
    lab.fail(peer.name, POWER)
    assert lab.wait_primary(node.name, LATE_S) == node.name  # there is no other
    lab.heal(peer.name)
    assert lab.wait_primary(peer.name, LATE_S) == peer.name
    wait_calm(lab)
    assert "is over" in hafw(node, "maintenance", "off")
    assert lab.wait_primary(node.name, LATE_S) == node.name


def test_never_is_never(lab: Lab) -> None:
    wait_calm(lab)
    primary = lab.wait_primary(None, 10)
    node, peer = lab.node(primary), lab.node(other(lab, primary))
    hafw(peer, "maintenance", "on", "--never")
    done = node.run(["/usr/sbin/hafw", "maintenance", "on"], check=False)
    assert done.returncode == 1
    assert f"{peer.name} is in maintenance" in done.stderr
    lab.fail(node.name, POWER)
    until(lambda: said(peer)[peer.name]["keepalived"] == ["FAULT"], LATE_S, "keepalived does not say FAULT")
    assert said(peer)[peer.name]["role"] != "primary"
    hafw(peer, "maintenance", "off")
    assert lab.wait_primary(peer.name, LATE_S) == peer.name
