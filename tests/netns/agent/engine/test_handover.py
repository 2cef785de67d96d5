# SPDX-License-Identifier: GPL-2.0-or-later
"""Handovers with the real daemons: what lives through them, what is refused, and who comes back how."""

import itertools
import json
from collections.abc import Iterator

import pytest

from agent.model.pair import SyncMode
from hafw_lab.client.lab import POWER, Fault, FaultKind, Lab, LabOptions
from hafw_lab.measure.failover import other, put_states
from hafw_lab.measure.result import Setup
from hafw_lab.measure.states import count_replicated, count_states, wait_replicated
from hafw_lab.traffic.session import Traffic, start_traffic

pytestmark = pytest.mark.netns

SERVER = "192.168.0.3"
HANDOVERS = 20
FAULTS = (
    POWER,
    Fault(FaultKind.LINK, "eth0"),
    Fault(FaultKind.KEEPALIVED_STOP),
    Fault(FaultKind.LINK, "eth1"),
    POWER,
)
"""An odd number, so that each of them hits either node."""
SHORT_TIMEOUTS = {
    # a fifteenth of the kernel's own
    "net.netfilter.nf_conntrack_udp_timeout": "2",
    "net.netfilter.nf_conntrack_udp_timeout_stream": "8",
}
OLD_NS = 12_000_000_000
"""Half as long again as an entry lives that nobody refreshes."""

STRANGER = """
import socket, struct, sys
source, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.bind((source, 0))
def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total & 0xffff) + (total >> 16)
    return ~(total + (total >> 16)) & 0xffff
ack = struct.pack("!HHIIBBHHH", 45000, port, 1000, 2000, 5 << 4, 0x10, 1024, 0, 0)
pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, len(ack))
raw.sendto(ack[:16] + struct.pack("!H", checksum(pseudo + ack)) + ack[18:], (target, 0))
"""
"""A segment in the middle of a TCP connection that nobody knows."""


def start_pair(sync: SyncMode, **changes: object) -> Iterator[Lab]:
    with Lab.start(LabOptions(sync=sync, **changes)) as lab:  # type: ignore[arg-type]  # named options
        lab.wait_settled(20)
        yield lab


def invalid_of(lab: Lab, name: str) -> int:
    status = json.loads(lab.node(name).run(["hafw", "status", "--json"], check=False).stdout)
    return int(status["rules"]["counters"]["invalid"])


def hand_over(lab: Lab, fault: Fault) -> tuple[str, str]:
    """The primary fails; returns the one that failed and the new primary."""
    victim = lab.wait_primary(None, 5)
    lab.fail(victim, fault)
    return victim, lab.wait_primary(other(lab, victim), 10)


def open_replicated(lab: Lab, sync: SyncMode, traffic: Traffic, count: int) -> None:
    """Connections that the backup knows of: those of the last milliseconds are lost with the power."""
    backup = lab.node(other(lab, lab.wait_primary(None, 5)))
    before = count_replicated(backup, sync)
    assert len(traffic.open(count)) == count
    wait_replicated(backup, sync, before + count, lambda _: None)


def assert_nothing_lost(traffic: Traffic, connections: int, flows: int) -> None:
    report = traffic.report()
    lost = [one for one in report.connections if not one.survived]
    assert len(report.connections) == connections
    assert not lost
    assert report.flows_alive == flows


@pytest.mark.parametrize("sync", SyncMode)
def test_twenty_alternating_handovers_lose_nothing(sync: SyncMode) -> None:
    for lab in start_pair(sync):
        client = lab.node("client")
        route = client.run(["ip", "route", "show", "default"]).stdout
        with start_traffic(client, lab.node("omarine"), SERVER) as traffic:
            open_replicated(lab, sync, traffic, 10)
            traffic.subscribe(5)
            for number, fault in zip(range(HANDOVERS), itertools.cycle(FAULTS), strict=False):
                victim, survivor = hand_over(lab, fault)
                traffic.mark()
                lab.heal(victim)
                assert lab.wait_settled(30) == survivor, f"handover {number}, {fault}"
            assert_nothing_lost(traffic, 10, 5)
        assert client.run(["ip", "route", "show", "default"]).stdout == route
        assert "via 192.168.2.100" in route


def test_the_server_may_speak_alone_on_an_old_flow_after_a_takeover() -> None:
    """Direct mode: a packet that renews a state is no event; only what is sent again keeps the copy."""
    for lab in start_pair(SyncMode.DIRECT, sysctls=SHORT_TIMEOUTS):
        with start_traffic(lab.node("client"), lab.node("omarine"), SERVER) as traffic:
            traffic.subscribe(5)
            begun = traffic.mark()
            while (now := traffic.snapshot()).now_ns - begun < OLD_NS:
                assert now.flows_alive(2000) == 5
            traffic.hush()
            hand_over(lab, POWER)
            after = traffic.mark()
            while (now := traffic.snapshot()).now_ns - after < 2_000_000_000:
                pass
            assert now.flows_alive() == 5


def test_without_the_re_send_the_same_flow_is_lost() -> None:
    for lab in start_pair(SyncMode.DIRECT, sysctls=SHORT_TIMEOUTS):
        for name in lab.firewalls:
            node = lab.node(name)
            node.stop_service("agent")
            pair_file = node.read_text("/etc/hafw/hafw.yaml")
            assert "mode: direct" in pair_file
            node.write_text(
                "/etc/hafw/hafw.yaml", pair_file.replace("mode: direct", "mode: direct\n  refresh: 1000s")
            )
            node.start_service("agent")
        lab.wait_settled(20)
        with start_traffic(lab.node("client"), lab.node("omarine"), SERVER) as traffic:
            traffic.subscribe(5)
            begun = traffic.mark()
            while traffic.snapshot().now_ns - begun < OLD_NS:
                pass
            traffic.hush()
            hand_over(lab, POWER)
            after = traffic.mark()
            while (now := traffic.snapshot()).now_ns - after < 2_000_000_000:
                pass
            assert now.flows_alive() == 0


@pytest.mark.parametrize("sync", SyncMode)
def test_the_new_primary_tells_established_from_unknown(sync: SyncMode) -> None:
    for lab in start_pair(sync):
        with start_traffic(lab.node("client"), lab.node("omarine"), SERVER) as traffic:
            open_replicated(lab, sync, traffic, 3)
            _, survivor = hand_over(lab, POWER)
            traffic.mark()
            lab.wait_settled(20)
            before = invalid_of(lab, survivor)
            argv = ["/usr/bin/python3", "-I", "-c", STRANGER, "192.168.2.10", SERVER, "22"]
            lab.node("client").run(argv)
            assert invalid_of(lab, survivor) == before + 1
            assert_nothing_lost(traffic, 3, 0)


@pytest.mark.parametrize("sync", SyncMode)
def test_a_node_that_comes_back_has_the_states_before_it_can_be_primary(sync: SyncMode) -> None:
    """With pre-emption the better node would be primary at once; its states must be in first."""
    setup = Setup(sync=sync, states=5000)
    for lab in start_pair(sync, preempt=True):
        better, worse = "fw-1", "fw-2"
        assert lab.wait_primary(better, 10) == better
        put_states(lab, setup, better, worse, lambda _: None)
        lab.fail(better, POWER)
        lab.wait_primary(worse, 10)
        lab.wait_settled(20)
        lab.heal(better)
        while lab.primary() != better:
            # not there yet: whatever it has, the other one must be serving
            lab.wait_primary(None, 10)
        if sync is SyncMode.DIRECT:
            assert count_states(lab.node(better)) >= setup.states
        lab.wait_settled(20)
        # in cache mode they were in the external cache, and the takeover has brought them into the kernel
        assert count_states(lab.node(better)) >= setup.states
        wait_replicated(lab.node(worse), sync, setup.states, lambda _: None)
