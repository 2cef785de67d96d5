# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup is compared with its primary, by the two agents and with the real daemons."""

import os
import signal
import time
from functools import partial

import pytest

from agent.model.pair import SyncMode
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from tests.netns.pair_checks import find, living, records, until, wait_quiet, wait_record

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="reads what the nodes' services wrote, which root may"),
]

LIMIT_S = 60
LIVING, ENDED = "10.1.0.50", "10.1.0.51"
PORTS = range(10_000, 10_500)


def add_states(node: Node, client: str) -> None:
    ends = f"-A -p tcp -s {client} -d 10.2.0.50 --dport 80 --state ESTABLISHED -t 600 -u SEEN_REPLY,ASSURED"
    node.run(["conntrack", "-R", "-"], input="".join(f"{ends} --sport {port}\n" for port in PORTS))


def count(node: Node, client: str) -> int:
    return len(node.run(["conntrack", "-L", "-p", "tcp", "-s", client]).stdout.splitlines())


def has_all(node: Node, client: str) -> bool:
    return count(node, client) == len(PORTS)


def test_a_backup_is_compared_before_it_is_ready() -> None:
    """It lacks some states, and has others that ended on the primary, which stay until their timers end.
    What flows is not disturbed."""
    with Lab.start(LabOptions(sync=SyncMode.DIRECT), name="compared") as lab:
        primary = lab.node(wait_quiet(lab))
        backup = lab.node(other(lab, primary.name))
        done = find(records(backup), event="step", step="CompareStates", result="done")
        assert "states of the primary are here (compared in 1 round" in str(done[-1]["message"])
        for client in (LIVING, ENDED):
            add_states(primary, client)
            until(partial(has_all, backup, client), LIMIT_S, "they are not replicated")
        for service in ("agent", "conntrackd"):
            backup.stop_service(service, signal.SIGKILL)
        primary.run(["conntrackd", "-f"])  # else it sends again what it could not
        primary.run(["conntrack", "-D", "-p", "tcp", "-s", ENDED])
        backup.run(["conntrack", "-D", "-p", "tcp", "-s", LIVING])
        with living(lab):
            since_ns = time.monotonic_ns()
            for service in ("conntrackd", "agent"):
                backup.start_service(service)
            step = wait_record(backup, since_ns, LIMIT_S, event="step", step="CompareStates", result="done")
        text = str(step["message"])
        assert "states of the primary are here" in text, text
        assert [count(node, LIVING) for node in (primary, backup)] == [len(PORTS)] * 2
        assert [count(node, ENDED) for node in (primary, backup)] == [0, len(PORTS)]
        found = text.partition(": ")[2]
        assert found in backup.run(["/usr/sbin/hafw", "status"], check=False).stdout
        # conntrackd had read all of them when it started, and would have told the peer of their end
        assert backup.run(["conntrackd", "-i"]).stdout == ""
