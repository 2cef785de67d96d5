# SPDX-License-Identifier: GPL-2.0-or-later
"""A primary whose conntrackd lost a part of the kernel's events: the agent sees it and has it read them
again."""

import os
import re
import signal
import time

import pytest

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other, virtual_address
from hafw_lab.measure.states import count_replicated, count_states, parse_cache_size, state_lines
from hafw_lab.model.topology import DEFAULT
from tests.netns.pair_checks import assert_consistent, find, records, until, wait_quiet, wait_record

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into the nodes' processes, which root may"),
]
STATES = 20_000
CONFIG = Paths().conntrackd_config


@pytest.mark.parametrize("mode", list(SyncMode), ids=lambda mode: mode.value)
def test_what_conntrackd_did_not_hear_of_is_read_again_and_sent(mode: SyncMode) -> None:
    with Lab.start(LabOptions(sync=mode), name="lost") as lab:
        primary = wait_quiet(lab)
        node, peer = lab.node(primary), lab.node(other(lab, primary))
        give_small_buffer(node)
        since = time.monotonic_ns()
        lose_events(lab, node)
        alarm = wait_record(node, since, 60, event="alarm", condition="lost-events")
        until(lambda: count_replicated(peer, mode) >= STATES, 60, "the peer does not get them")
        wait_record(node, since, 60, event="recovered", condition="lost-events")
        found = records(node, since)
        assert len(find(found, event="alarm", condition="lost-events")) == 1, alarm
        assert len(find(found, step="ResyncKernel", result="done")) == 1
        assert_consistent(lab, since)


def give_small_buffer(node: Node) -> None:
    """So that a burst which does not fit need not be large."""
    text = node.read_text(CONFIG)
    smaller = re.sub(r"NetlinkBufferSize\w* \d+", lambda found: f"{found[0].split()[0]} 262144", text)
    assert smaller != text
    node.write_text(CONFIG, smaller.partition("\n")[2])  # without the mark of hafw's own files
    since = time.monotonic_ns()
    node.stop_service("conntrackd")
    wait_record(node, since, 60, event="alarm", condition="conntrackd")
    node.start_service("conntrackd")
    wait_record(node, since, 60, event="step", step="SendBulk", result="done")


def lose_events(lab: Lab, node: Node) -> None:
    """A burst while conntrackd does not get the processor; nor does the agent, which would miss it."""
    clients, servers = virtual_address(DEFAULT, "client"), virtual_address(DEFAULT, "server")
    lines = state_lines(clients.network, servers.network, servers.ip)
    text = "".join(f"{next(lines)}\n" for _ in range(STATES))
    for service in ("agent", "conntrackd"):
        node.signal_service(service, signal.SIGSTOP)
    node.run(["conntrack", "-R", "-"], input=text, timeout_s=60)
    node.signal_service("conntrackd", signal.SIGCONT)
    assert count_states(node) >= STATES
    known = parse_cache_size(node.run(["conntrackd", "-s", "cache"]).stdout, "internal")
    node.signal_service("agent", signal.SIGCONT)
    assert known is not None
    assert known < STATES // 2, "nothing was lost"
