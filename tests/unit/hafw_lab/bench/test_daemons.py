# SPDX-License-Identifier: GPL-2.0-or-later
"""What `bench daemons` makes of what it sees; the blows are tried in tests/netns/hafw_lab/bench."""

import argparse
import json
import signal
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from hafw_lab.bench import main
from hafw_lab.bench.daemons import plan_blows, say_struck, tabulate
from hafw_lab.client.lab import LabStatus, NodeStatus, ServiceStatus
from hafw_lab.measure.blows import (
    Blow,
    Calm,
    Daemon,
    Place,
    Struck,
    find_unrest,
    words_in,
    words_of,
)

BLOW = Blow(Daemon.BOTH, Place.PRIMARY, signal.SIGKILL, 2)
WHOLE = Struck(BLOW, "fw-1", 10, 10, 4.04, ("keepalived", "transition"), ("fw-1:keepalived", "transition"))
TORN = replace(WHOLE, survived=9, calm_s=None, peer=(), unrest="fw-1 says pid-file")
PRIMARY: Mapping[str, Any] = {"role": "primary", "gate": "open", "ready": True, "problems": {}}
BACKUP: Mapping[str, Any] = {"role": "backup", "gate": "closed", "ready": True, "problems": {}}


def node(name: str, agent: Mapping[str, Any] | None, *, running: bool = True) -> NodeStatus:
    return NodeStatus(
        name=name,
        firewall=True,
        alive=True,
        vips=(),
        links={},
        services={"agent": ServiceStatus(True, 7, None), "channel": ServiceStatus(running, 8, None)},
        conntrack=0,
        refused_sysctls=(),
        logs=(),
        agent=agent,
    )


def unrest(*nodes: NodeStatus, primary: str | None = "fw-1") -> str:
    return find_unrest(LabStatus("lab", primary, {}, nodes), ("fw-1", "fw-2"))


def test_a_pair_is_calm() -> None:
    assert unrest(node("fw-1", PRIMARY), node("fw-2", BACKUP)) == ""
    assert unrest(node("fw-1", BACKUP), node("fw-2", PRIMARY), primary="fw-2") == ""


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (node("fw-2", BACKUP, running=False), "fw-2 does not run channel"),
        (replace(node("fw-2", BACKUP), alive=False), "fw-2 does not run at all"),
        (node("fw-2", None), "the agent of fw-2 does not answer"),
        (node("fw-2", {"error": "not there"}), "the agent of fw-2 does not answer"),
        (node("fw-2", PRIMARY), "fw-2 is primary, gate open, and not backup, gate closed"),
        (node("fw-2", {**BACKUP, "gate": "open"}), "fw-2 is backup, gate open, and not backup, gate closed"),
        (node("fw-2", {**BACKUP, "problems": {"bus": "", "addresses": ""}}), "fw-2 says addresses, bus"),
        (node("fw-2", {**BACKUP, "ready": False}), "fw-2 is not ready"),
        (node("fw-2", None, running=False), "fw-2 does not run channel; the agent of fw-2 does not answer"),
    ],
)
def test_a_pair_that_is_not_calm_says_why(second: NodeStatus, why: str) -> None:
    assert unrest(node("fw-1", PRIMARY), second) == why


def test_two_nodes_with_the_addresses_are_not_calm() -> None:
    nodes = node("fw-1", PRIMARY), node("fw-2", BACKUP)
    assert unrest(*nodes, primary=None) == "no node holds all virtual addresses alone"


def test_the_words_of_a_status() -> None:
    assert words_of(BACKUP, "fw-2") == set()
    assert words_of(None, "fw-2") == words_of({"error": "not there"}, "fw-2") == {"agent silent"}
    nodes = {"fw-1": {"problems": ["conntrackd"]}, "fw-2": {"problems": ["peer"]}}
    assert words_of({**BACKUP, "problems": {"peer": "text"}, "nodes": nodes}, "fw-2") == {
        "peer",
        "fw-1:conntrackd",
    }
    assert words_of({**BACKUP, "nodes": {"fw-1": None, "fw-2": {}}}, "fw-2") == set()


def test_the_words_of_records() -> None:
    records = [
        {"event": "alarm", "condition": "stall"},
        {"event": "recovered", "condition": "stall"},
        {"event": "transition", "to": "primary"},
        {"event": "step"},
    ]
    assert words_in(records) == {"stall", "transition"}
    assert words_in([{"event": "step"}, {"event": "started"}]) == {"started"}


def test_calm_has_to_last() -> None:
    calm = Calm(12)
    assert not calm.see(0.0, "")
    assert not calm.see(11.9, "")
    assert not calm.see(12.5, "fw-1 says pid-file")
    assert not calm.see(14.0, "")
    assert not calm.see(25.9, "")
    assert (calm.see(26.0, ""), calm.since_s) == (True, 14.0)


def test_no_daemon_is_struck_twice_in_a_row() -> None:
    blows = plan_blows(tuple(Daemon), tuple(Place), (signal.SIGKILL, signal.SIGSTOP), 3)
    assert len(blows) == len(set(blows)) == 6 * 2 * 2 * 3
    assert all(one.daemon is not two.daemon for one, two in pairwise(blows))


def test_the_promised_json_has_these_keys_and_no_others() -> None:
    assert json.loads(json.dumps([WHOLE.to_json(), TORN.to_json()])) == [
        {
            "daemon": "keepalived-both",
            "place": "primary",
            "signal": "KILL",
            "round": 2,
            "node": "fw-1",
            "opened": 10,
            "survived": 10,
            "calm_s": 4.0,
            "own": ["keepalived", "transition"],
            "peer": ["fw-1:keepalived", "transition"],
            "unrest": "",
        },
        {
            "daemon": "keepalived-both",
            "place": "primary",
            "signal": "KILL",
            "round": 2,
            "node": "fw-1",
            "opened": 10,
            "survived": 9,
            "calm_s": None,
            "own": ["keepalived", "transition"],
            "peer": [],
            "unrest": "fw-1 says pid-file",
        },
    ]


def test_a_blow_in_words() -> None:
    assert say_struck(WHOLE) == (
        "KILL of keepalived-both on the primary, fw-1: 10 of 10 survived, calm after 4.0 s;"
        " it said keepalived, transition; its peer fw-1:keepalived, transition"
    )
    assert "9 of 10 survived, not whole: fw-1 says pid-file;" in say_struck(TORN)
    assert say_struck(TORN).endswith("its peer nothing")


def test_a_row_for_each_kind_of_blow() -> None:
    stop = replace(WHOLE, blow=replace(BLOW, signal=signal.SIGSTOP))
    assert tabulate([WHOLE, stop, TORN]) == [
        [
            *("keepalived-both", "primary", "KILL", "2", "1", "19 of 20"),
            *("4.0, 1 without", "2 of 2", "1 of 2"),
        ],
        ["keepalived-both", "primary", "STOP", "1", "1", "10 of 10", "4.0", "1 of 1", "1 of 1"],
    ]


def test_the_arguments() -> None:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    args = parser.parse_args(["daemons"])
    assert (args.daemons, args.nodes) == (tuple(Daemon), tuple(Place))
    assert args.signals == (signal.SIGKILL, signal.SIGSTOP)
    assert (args.rounds, args.stop_seconds, args.limit, args.vm) == (5, 60, 120, None)
    args = parser.parse_args(["daemons", "--daemons", "agent", "--nodes", "backup", "--signals", "STOP"])
    assert (args.daemons, args.nodes, args.signals) == (
        (Daemon.AGENT,),
        (Place.BACKUP,),
        (signal.SIGSTOP,),
    )
