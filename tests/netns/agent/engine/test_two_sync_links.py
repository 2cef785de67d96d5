# SPDX-License-Identifier: GPL-2.0-or-later
"""Two sync links: while the first one has no carrier, states are replicated over the second one."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from hafw_lab.client.lab import Fault, FaultKind, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.model.topology import DEFAULT, Link, NodeKind, Segment, Topology
from hafw_lab.traffic.session import start_traffic
from tests.netns.pair_checks import SERVER, until, wait_quiet, wait_record

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

LATE_S = 20
MANY = 5


def doubled() -> Topology:
    """The built-in one, with a second sync link of the firewalls."""
    nodes = (
        replace(
            node,
            links=(*node.links, Link("eth3", "br3", (ip_interface(f"192.168.3.{node.name[-1]}/24"),))),
        )
        if node.kind is NodeKind.FIREWALL
        else node
        for node in DEFAULT.nodes
    )
    return replace(DEFAULT, segments=(*DEFAULT.segments, Segment("br3", "sync")), nodes=tuple(nodes))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(), doubled(), name="twosync") as started:
        yield started


def problems(node: Node) -> dict[str, str]:
    found: dict[str, str] = json.loads(node.run(["/usr/sbin/hafw", "status", "--json"], check=False).stdout)[
        "problems"
    ]
    return found


def wait_well(node: Node) -> None:
    until(lambda: not problems(node), LATE_S, lambda: str(problems(node)))


def has(node: Node) -> set[str]:
    """The source ports of its TCP states."""
    return set(re.findall("sport=[0-9]+ ", node.run(["conntrack", "-L", "-p", "tcp"]).stdout))


def wait_replicated(lab: Lab, backup: Node) -> None:
    """New connections come to the backup."""
    with start_traffic(lab.node("client"), lab.node("omarine"), SERVER) as traffic:
        opened = {f"sport={port} " for port in traffic.open(MANY)}
        until(lambda: opened <= has(backup), LATE_S, "nothing is replicated")


def test_states_are_replicated_over_the_second_link_while_the_first_is_down(lab: Lab) -> None:
    backup = lab.node(other(lab, wait_quiet(lab)))
    nodes = [lab.node(name) for name in lab.firewalls]
    for node in nodes:
        wait_well(node)
    for cut, left in (("eth2", "eth3"), ("eth3", "eth2")):
        for node in nodes:  # as a cable between the two, or a switch that fails
            cut_ns = lab.fail(node.name, Fault(FaultKind.LINK, cut))
            alarm = wait_record(node, cut_ns, LATE_S, event="alarm", condition="spare-link")
            assert f"this node sends states over {left}" in str(alarm["message"])
        wait_replicated(lab, backup)
        for node in nodes:
            lab.heal(node.name)
        for node in nodes:
            wait_well(node)
        wait_replicated(lab, backup)
