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
from agent.core.peer import SPLIT_S
from agent.model.pair import SyncMode
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.traffic.session import Traffic, start_traffic
from tests.netns.pair_checks import (
    LINK_FAULT,
    SERVER,
    assert_consistent,
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
            kept, others = split(lab, CUTS[what], stays, yields, traffic, shared=shared)
            if mode is SyncMode.DIRECT:
                wait_known(yields, set(kept.values()))
                left = others & ports_of(yields) - ports_of(stays)
                assert not left, "the backup did not start clean"
                end_states_of(yields)
                wait_flows(traffic, kept)
                yields.run(["conntrackd", "-n"])
                wait_known(yields, set(kept.values()))
            since = lab.fail(stays.name, LINK_FAULT)
            lab.wait_primary(yields.name, 20)
            wait_flows(traffic, kept)
            wait_record(yields, since, SOON_S, event="step", step="SendBulk")


def split(
    lab: Lab, what: str, stays: Node, yields: Node, traffic: Traffic, *, shared: bool
) -> tuple[dict[int, int], set[int]]:
    """Until it is over, and both nodes have done what they do then. Returns the connections that `stays`
    carries, and the ports of the others, which conntrackd may bring to it when the nodes hear each other
    again. `shared`: what `yields` opens is in the other kernel at once."""
    since = time.monotonic_ns()
    with contextlib.ExitStack() as cutting:
        kept = open_more(traffic)
        wait_known(stays, set(kept.values()))
        with cut(lab, what):
            wait_record(yields, since, SOON_S, event="transition", to="primary")
            with sending_to(lab, yields):
                fresh = open_more(traffic)
                wait_flows(traffic, kept | fresh)
            cutting.enter_context(sending_to(lab, stays))
            if shared:
                wait_known(stays, set(fresh.values()))
                kept |= fresh
            kept |= open_more(traffic)
            wait_flows(traffic, kept)
            if shared:
                for node in (stays, yields):
                    wait_record(node, since, SOON_S, event="alarm", condition=Condition.SPLIT_BRAIN.value)
            time.sleep(2 * SPLIT_S)  # what is shorter may be a takeover that is taken back
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
    wait_flows(traffic, kept)
    assert len(find(records(yields, since), event="step", step="StartClean", result="done")) == 1
    assert "ResyncKernel" in steps(records(stays, healed))
    return kept, set(fresh.values()) - set(kept.values())


def open_more(traffic: Traffic) -> dict[int, int]:
    """Numbers of the new connections, and the client's ports of these."""
    before = traffic.snapshot().last_ns.keys()
    ports = traffic.open(MANY)
    return dict(zip(sorted(traffic.snapshot().last_ns.keys() - before), ports, strict=True))


def wait_flows(traffic: Traffic, wanted: dict[int, int]) -> None:
    """Until all of these flow, whatever others do."""

    def flow() -> bool:
        seen = traffic.snapshot()
        last_ns = (seen.last_ns.get(number, 0) for number in wanted)
        return all(seen.now_ns - one < seen.patience_ms * 1_000_000 for one in last_ns)

    until(flow, SOON_S, lambda: f"of {wanted} some do not flow: {traffic.snapshot()}")


def wait_known(node: Node, ports: set[int]) -> None:
    until(lambda: ports <= ports_of(node), SOON_S, lambda: f"{node.name} knows {ports_of(node)} of {ports}")


def end_states_of(node: Node) -> None:
    """As their timers would in time: what conntrackd knows of them it would tell the peer."""
    node.run(["conntrack", "-D", "-p", "tcp"], check=False)
    until(lambda: not ports_of(node), SOON_S, "they stay")
