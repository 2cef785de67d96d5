# SPDX-License-Identifier: GPL-2.0-or-later
"""Both nodes are primary for a while, with the real daemons: what the one that stays primary carries lives
through the next failover, and nothing that the other one has from that time harms it."""

import contextlib
import json
import os
import time
from collections.abc import Iterator

import pytest

from agent.core.actions import SetReadiness
from agent.core.conditions import Condition
from agent.model.pair import SyncMode
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.traffic.session import Traffic, start_traffic
from tests.netns.pair_checks import (
    LINK_FAULT,
    SERVER,
    assert_consistent,
    assert_flows,
    find,
    records,
    steps,
    until,
    wait_quiet,
    wait_record,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="drops packets before the nodes' own rules, which root may"
    ),
]

SOON_S = 60.0
"""What happens at all happens by then, also on a busy machine."""
GATEWAYS = {"client": ("192.168.2.100", "eth1"), "omarine": ("192.168.0.100", "eth0")}
"""Whom the ends of the traffic send to, and by which interface of the firewalls."""
CUTS = {
    "VRRP": "iifname { eth0, eth1 } meta l4proto 112",
    "all links": "ip saddr { 192.168.0.1-192.168.0.2, 192.168.1.1-192.168.1.2, 192.168.2.1-192.168.2.2 }",
}
"""What is not heard of the peer. Clients and servers still reach both nodes."""
MANY = 3


@contextlib.contextmanager
def cut(lab: Lab, what: str) -> Iterator[None]:
    hook = "{ type filter hook prerouting priority -500; }"
    rules = f"add table inet block; add chain inet block it {hook}; add rule inet block it {what} drop"
    for name in lab.firewalls:
        lab.node(name).run(["nft", rules])
    try:
        yield
    finally:
        for name in lab.firewalls:
            lab.node(name).run(["nft", "delete table inet block"])


@contextlib.contextmanager
def sending_to(lab: Lab, firewall: Node) -> Iterator[None]:
    """Both ends of the traffic, whoever announces the virtual addresses."""
    for name, (gateway, interface) in GATEWAYS.items():
        mac = firewall.run(["cat", f"/sys/class/net/{interface}/address"]).stdout.strip()
        node = lab.node(name)
        device = json.loads(node.run(["ip", "-json", "route", "get", gateway]).stdout)[0]["dev"]
        node.run(["ip", "neigh", "replace", gateway, "lladdr", mac, "dev", device, "nud", "permanent"])
    try:
        yield
    finally:
        for name, (gateway, _) in GATEWAYS.items():
            node = lab.node(name)
            device = json.loads(node.run(["ip", "-json", "route", "get", gateway]).stdout)[0]["dev"]
            node.run(["ip", "neigh", "replace", gateway, "dev", device, "nud", "stale"])


def ports_of(node: Node) -> set[int]:
    """By which ports of the client its kernel knows connections."""
    listed = node.run(["conntrack", "-L", "-p", "tcp"]).stdout.splitlines()
    return {int(line.partition("sport=")[2].split()[0]) for line in listed if "ESTABLISHED" in line}


@pytest.mark.parametrize("mode", list(SyncMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("what", CUTS)
def test_what_the_surviving_primary_carries_lives_through_the_next_failover(
    what: str, mode: SyncMode
) -> None:
    with Lab.start(LabOptions(sync=mode), name="split") as lab:
        stays = lab.node(wait_quiet(lab))
        yields = lab.node(other(lab, stays.name))
        with start_traffic(lab.node("client"), lab.node("omarine"), SERVER) as traffic:
            shared = what == "VRRP" and mode is SyncMode.DIRECT
            kept, lost = split(lab, CUTS[what], stays, yields, traffic, shared=shared)
            if mode is SyncMode.DIRECT:
                until(lambda: kept <= ports_of(yields), SOON_S, lambda: f"{kept} != {ports_of(yields)}")
                assert not lost & ports_of(yields), "the backup did not start clean"
                end_states_of(yields)
                assert_flows(traffic, len(kept))
                yields.run(["conntrackd", "-n"])
                until(lambda: kept <= ports_of(yields), SOON_S, "they do not come in again")
            since = lab.fail(stays.name, LINK_FAULT)
            lab.wait_primary(yields.name, 20)
            assert_flows(traffic, len(kept))
            wait_record(yields, since, SOON_S, event="step", step="SendBulk")


def split(
    lab: Lab, what: str, stays: Node, yields: Node, traffic: Traffic, *, shared: bool
) -> tuple[set[int], set[int]]:
    """Until it is over, and both nodes have done what they do then. Returns the ports of the connections
    that `stays` carries, and of those that only the other one knew. `shared`: what `yields` opens is in the
    other kernel as well."""
    since = time.monotonic_ns()
    with contextlib.ExitStack() as cutting:
        kept = set(traffic.open(MANY))
        wait_known(stays, kept)
        with cut(lab, what):
            wait_record(yields, since, SOON_S, event="transition", to="primary")
            with sending_to(lab, yields):
                fresh = set(traffic.open(MANY))
                assert_flows(traffic, 2 * MANY)
            cutting.enter_context(sending_to(lab, stays))
            if shared:
                wait_known(stays, fresh)
                kept |= fresh
            kept |= set(traffic.open(MANY))
            assert_flows(traffic, len(kept))
            if shared:
                for node in (stays, yields):
                    wait_record(node, since, SOON_S, event="alarm", condition=Condition.SPLIT_BRAIN.value)
            healed = time.monotonic_ns()
        wait_record(yields, healed, SOON_S, event="transition", to="backup")
        for node in (stays, yields):
            wait_record(node, since, SOON_S, event="alarm", condition=Condition.SPLIT_BRAIN.value)
            wait_record(node, healed, SOON_S, event="recovered", condition=Condition.SPLIT_BRAIN.value)
        clean = wait_record(yields, healed, SOON_S, event="step", step="StartClean", result="done")
        ready = SetReadiness(ready=True).describe()
        wait_record(yields, int(str(clean["mono_ns"])), SOON_S, event="step", message=ready)
        wait_record(stays, healed, SOON_S, event="step", step="SendBulk", result="done")
        assert_consistent(lab, healed, timeout_s=SOON_S)
    assert_flows(traffic, len(kept))
    assert len(find(records(yields, since), event="step", step="StartClean", result="done")) == 1
    assert "ResyncKernel" in steps(records(stays, healed))
    return kept, fresh - kept


def wait_known(node: Node, ports: set[int]) -> None:
    until(lambda: ports <= ports_of(node), SOON_S, lambda: f"{node.name} knows {ports_of(node)} of {ports}")


def end_states_of(node: Node) -> None:
    """As their timers would in time: what conntrackd knows of them it would tell the peer."""
    node.run(["conntrack", "-D", "-p", "tcp"], check=False)
    until(lambda: not ports_of(node), SOON_S, "they stay")
