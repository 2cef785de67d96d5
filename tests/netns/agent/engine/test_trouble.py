# SPDX-License-Identifier: GPL-2.0-or-later
"""Troubles with the real daemons: hooks, the bus, rules, keepalived and links. After each of them the pair
is consistent and the records say what happened. (Agents and conntrackd: test_trouble_cuts.py.)"""

import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.bench.flap import flap
from hafw_lab.client.lab import Fault, FaultKind, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other, put_states
from hafw_lab.measure.result import Setup
from hafw_lab.measure.states import count_states
from tests.netns.pair_checks import (
    LINK_FAULT,
    assert_consistent,
    assert_flows,
    find,
    find_strangers,
    flush_rules,
    gate_is_open,
    living,
    records,
    repair,
    steps,
    until,
    wait_quiet,
    wait_record,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into the nodes' processes, which root may"),
]

HOOK = str(Paths().hook)
TWO_POLLS_S = 12.0
A_POLL_NS = 4_400_000_000
"""What the sources must differ for before it is called a contradiction; a poll comes after 4.5 to 5.5 s."""


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with Lab.start(LabOptions(sync=SyncMode.DIRECT), name="trouble") as lab:
        yield lab


@pytest.fixture
def lab(started: Lab) -> Lab:
    """The same one for every test."""
    repair(started)
    return started


def take_over(lab: Lab) -> tuple[str, str, int]:
    """The primary loses a link. Returns it, the new primary, and the moment."""
    victim = lab.wait_primary(None, 10)
    moment = lab.fail(victim, LINK_FAULT)
    return victim, lab.wait_primary(other(lab, victim), 10), moment


def take_over_and_heal(lab: Lab) -> tuple[str, str]:
    """Returns who was primary and who is, and the trigger that the new one recorded."""
    victim, survivor, moment = take_over(lab)
    done = wait_record(lab.node(survivor), moment, 5, event="transition", to="primary", result="done")
    lab.heal(victim)
    lab.wait_settled(30)
    return survivor, str(done["trigger"])


# -- hooks --


def test_contradicting_hooks_in_any_number_change_nothing(lab: Lab) -> None:
    primary = lab.wait_primary(None, 5)
    since = time.monotonic_ns()
    lies = " ".join(
        f"{HOOK} {kind} {state} 100 &"
        for kind in ("GROUP G1", "INSTANCE VI_eth1_4")
        for state in ("BACKUP", "MASTER", "FAULT", "STOP")
    )
    with living(lab):
        for name in lab.firewalls:
            lab.node(name).run(["sh", "-c", f"for i in 1 2 3 4; do {lies} done; wait"], timeout_s=30)
        assert lab.wait_settled(10) == primary
        assert_consistent(lab, since)
    for name in lab.firewalls:
        assert records(lab.node(name), since) == [], "a hint that is not true changes nothing"


@pytest.mark.parametrize(
    "script",
    [
        'if [ "$3" = MASTER ]; then for s in MASTER BACKUP FAULT; do {real} "$1" "$2" $s "$4"; done; fi',
        '(sleep 1; exec {real} "$@") &',
    ],
    ids=["reordered", "delayed"],
)
def test_late_and_reordered_hooks(lab: Lab, script: str) -> None:
    primary = lab.wait_primary(None, 5)
    heir = lab.node(other(lab, primary))
    hook = heir.read_text(HOOK)
    real = heir.run(["sh", "-c", f"cp -p {HOOK} {HOOK}.real; echo {HOOK}.real"]).stdout.strip()
    heir.write_text(HOOK, "#!/bin/bash\n" + script.format(real=real) + "\n")
    since = time.monotonic_ns()
    try:
        with living(lab):
            survivor, _ = take_over_and_heal(lab)
            assert survivor == heir.name
            assert_consistent(lab, since)
    finally:
        heir.write_text(HOOK, hook)
    moves = find(records(heir, since), event="transition")
    assert [(one["from"], one["to"], one["result"]) for one in moves] == [("backup", "primary", "done")]


# -- the bus --


def strip_hooks(node: Node) -> str:
    """keepalived.conf without the hook, as if made by hand; returns what it was."""
    path = Paths().keepalived_config
    text = node.read_text(path)
    bare = re.sub(r'^\s*notify "[^"]*"\n', "", text.partition("\n")[2], flags=re.MULTILINE)
    assert bare.count("notify") == 0
    assert text.count("notify") >= 3
    node.write_text(path, bare)
    return text


def restart_keepalived(lab: Lab) -> None:
    """The backup's first; the primary's is a handover."""
    primary = lab.wait_settled(30)
    for name in (other(lab, primary), primary):
        lab.node(name).stop_service("keepalived")
        lab.node(name).start_service("keepalived")
    lab.wait_settled(30)


def test_without_hooks_and_then_without_the_bus(lab: Lab) -> None:
    kept = {name: strip_hooks(lab.node(name)) for name in lab.firewalls}
    since = time.monotonic_ns()
    try:
        with living(lab):
            restart_keepalived(lab)
            take_over_and_heal(lab)
            assert_consistent(lab, since)
            for name in lab.firewalls:
                lab.node(name).stop_service("bus", signal.SIGKILL)
            blind = time.monotonic_ns()
            victim, survivor, moment = take_over(lab)
            done = wait_record(lab.node(survivor), moment, 5, event="transition", to="primary")
            assert done["trigger"] == "netlink"
            assert not gate_is_open(lab.node(victim))
            for name in lab.firewalls:
                lab.heal(name)
            restart_keepalived(lab)
            assert_consistent(lab, blind, allowed={"bus"})
        for name in lab.firewalls:
            triggers = {
                str(one["trigger"]) for one in find(records(lab.node(name), since), event="transition")
            }
            assert triggers
            assert not [trigger for trigger in triggers if trigger.startswith("notify")]
    finally:
        for name, text in kept.items():
            lab.node(name).write_text(Paths().keepalived_config, text)
        restart_keepalived(lab)
    assert_consistent(lab, since)


def test_the_bus_dies_and_comes_back(lab: Lab) -> None:
    """keepalived stays mute on the new bus for good; that is said once, and nothing depends on it."""
    since = time.monotonic_ns()
    with living(lab):
        for name in lab.firewalls:
            lab.fail(name, Fault(FaultKind.BUS))
        victim, survivor, moment = take_over(lab)
        done = wait_record(lab.node(survivor), moment, 5, event="transition", to="primary", result="done")
        assert str(done["trigger"]).startswith(("netlink", "notify"))
        for name in lab.firewalls:
            alarm = wait_record(lab.node(name), since, TWO_POLLS_S, event="alarm", condition="bus")
            assert "the system bus is not available" in str(alarm["message"])
            assert int(str(alarm["mono_ns"])) - since > A_POLL_NS
        lab.heal(victim)
        lab.heal(survivor)
        for name in lab.firewalls:
            until(partial(hears_new_bus, lab, name), 5, f"{name} does not see the new bus")
        take_over_and_heal(lab)
        assert_consistent(lab, since, allowed={"bus"})
        said = time.monotonic_ns()
        restart_keepalived(lab)
        for name in lab.firewalls:
            wait_record(lab.node(name), said, TWO_POLLS_S, event="recovered", condition="bus")
        assert_consistent(lab, since)
    for name in lab.firewalls:
        assert len(find(records(lab.node(name), since), event="alarm", condition="bus")) == 1, "said once"


def hears_new_bus(lab: Lab, name: str) -> bool:
    """There is a bus again, and no keepalived on it."""
    agent = lab.status().node(name).agent
    return agent is not None and "error" not in agent and agent["keepalived"]["bus"] == "connected"


# -- rules --


def test_flushed_rules_are_back_within_a_second(lab: Lab) -> None:
    """On the backup nobody notices. On a primary that translates, what the server sends meanwhile reaches
    the firewall's own TCP, which resets it: no connection that speaks in that moment can be kept."""
    primary = lab.wait_primary(None, 5)
    with living(lab):
        for _ in range(2):
            flush_rules(lab.node(other(lab, primary)))
    since = time.monotonic_ns()
    flush_rules(lab.node(primary))
    with living(lab):
        assert_consistent(lab, since)
    assert not {"CommitStates", "SwitchRules"} & set(steps(records(lab.node(primary), since)))


# -- keepalived --


def test_a_killed_keepalived_leaves_an_orphaned_address_behind(lab: Lab) -> None:
    primary = lab.wait_primary(None, 5)
    node, heir = lab.node(primary), lab.node(other(lab, primary))
    with living(lab) as traffic:
        moment = lab.fail(primary, Fault(FaultKind.KEEPALIVED))
        stopped = wait_record(node, moment, 2, event="transition", to="stopped", result="done")
        assert stopped["trigger"] == "death of keepalived's VRRP process"
        assert not gate_is_open(node)
        wait_record(heir, moment, 5, event="transition", to="primary", result="done")
        status = lab.status()
        assert sorted(status.node(primary).vips) == sorted(lab.vips), "nobody was left to remove them"
        agent = status.node(primary).agent
        assert agent is not None
        assert (agent["role"], agent["gate"], agent["keepalived"]["orphaned"]) == (
            "stopped",
            "closed",
            agent["keepalived"]["addresses"],
        )
        assert_flows(traffic)
        for condition in ("orphaned-address", "keepalived"):
            alarm = wait_record(node, moment, TWO_POLLS_S, event="alarm", condition=condition)
            assert int(str(alarm["mono_ns"])) - moment > A_POLL_NS
        back = time.monotonic_ns()
        lab.heal(primary)
        assert_consistent(lab, moment)
        for condition in ("orphaned-address", "keepalived"):
            wait_record(node, back, TWO_POLLS_S, event="recovered", condition=condition)
    assert find(records(node, back), event="transition", to="primary") == []


def test_the_vrrp_process_alone_is_killed(lab: Lab) -> None:
    """The parent starts another one, which removes the addresses and is backup for a while."""
    primary = lab.wait_primary(None, 5)
    node = lab.node(primary)
    with living(lab):
        since = time.monotonic_ns()
        node.run(["sh", "-c", f"kill -9 $(cat {Paths().vrrp_pid})"])
        wait_record(node, since, 5, event="transition", to="backup", result="done")
        first = find(records(node, since), event="transition")[0]
        # on a busy machine the new process may be there before the agent has looked for the old one
        assert (first["from"], first["to"]) in (("primary", "stopped"), ("primary", "backup"))
        lab.wait_settled(20)
        assert_consistent(lab, since)


# -- links --


def test_a_link_that_flaps_ten_times_a_second(lab: Lab) -> None:
    primary = lab.wait_primary(None, 5)
    setup = Setup(sync=SyncMode.DIRECT, states=2000)
    put_states(lab, setup, primary, other(lab, primary), lambda _: None)
    wait_quiet(lab)
    crowds: list[list[str]] = []

    def look(_: str) -> None:
        status = lab.status()
        crowds.extend(find_strangers(lab.node(name), status.node(name)) for name in lab.firewalls)

    since = time.monotonic_ns()
    with living(lab):
        flap(lab, primary, 20, 10, look)
        lab.wait_settled(10)
        assert_consistent(lab, since)
    assert len(crowds) >= 40
    hooks = [[one for one in crowd if one.startswith("notify")] for crowd in crowds]
    rest = [[one for one in crowd if not one.startswith(("notify", "keepalived"))] for crowd in crowds]
    assert max(map(len, hooks)) < 500, "fewer than half of those started: more than a thousand"
    assert max(map(len, rest)) <= 1, "one question to conntrackd at a time"
    heir = other(lab, primary)
    assert lab.primary() == heir, "one whose link flaps does not win its addresses back"
    assert [one["to"] for one in find(records(lab.node(heir), since), event="transition")] == ["primary"]
    assert find(records(lab.node(primary), since), event="transition", to="fault"), "it was seen"
    for name in lab.firewalls:
        assert count_states(lab.node(name)) >= setup.states
