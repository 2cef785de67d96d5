# SPDX-License-Identifier: GPL-2.0-or-later
"""Troubles of the agent itself and of conntrackd, with the real daemons: killed, missing or hung, at any
point of a plan. After each of them the pair is consistent and the records say what happened."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.client.records import Record
from hafw_lab.measure.failover import other, put_states
from hafw_lab.measure.result import Setup
from hafw_lab.measure.states import count_states
from tests.netns.pair_checks import (
    LINK_FAULT,
    Turnstile,
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

PLANS = {
    SyncMode.DIRECT: [
        "CompleteExpectations",
        "SwitchRules",
        "CompleteRemaining",
        "VerifyRules",
        "SetReadiness",
        "ResyncKernel",
        "SendBulk",
    ],
    SyncMode.CACHE: [
        "CommitStates",
        "CompleteExpectations",
        "SwitchRules",
        "CompleteRemaining",
        "FlushCaches",
        "VerifyRules",
        "SetReadiness",
        "ResyncKernel",
        "SendBulk",
    ],
}
"""The steps of a takeover."""
POLL_S = 6.0
HOOK = str(Paths().hook)
PAIR_FILE = str(Paths().pair_file)


@pytest.fixture(scope="module", params=list(SyncMode), ids=lambda mode: mode.value)
def started(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab.start(LabOptions(sync=request.param), name="cuts") as lab:
        yield lab


committing = pytest.mark.parametrize("started", [SyncMode.CACHE], ids=lambda mode: mode.value, indirect=True)
"""Direct mode commits nothing."""


@pytest.fixture
def lab(started: Lab) -> Lab:
    """The same one for every test of a mode."""
    repair(started)
    return started


@pytest.fixture
def mode(lab: Lab) -> SyncMode:
    return SyncMode(lab.options["sync"])


def take_over(lab: Lab) -> tuple[str, str, int]:
    """The primary loses a link. Returns it, the new primary, and the moment."""
    victim = lab.wait_primary(None, 10)
    moment = lab.fail(victim, LINK_FAULT)
    return victim, lab.wait_primary(other(lab, victim), 10), moment


# -- the agent --


@pytest.mark.parametrize("role", ["primary", "backup"])
def test_an_idle_agent_is_killed_and_comes_back(lab: Lab, role: str) -> None:
    primary = lab.wait_primary(None, 5)
    node = lab.node(primary if role == "primary" else other(lab, primary))
    since = time.monotonic_ns()
    with living(lab) as traffic:
        traffic.probe(500)
        until(lambda: traffic.snapshot().received > 20, 5, "the probe is not answered")
        traffic.mark()
        node.stop_service("agent", signal.SIGKILL)
        assert gate_is_open(node) is (role == "primary")
        node.start_service("agent")
        of_backup = "CompareStates" if lab.options["sync"] == SyncMode.DIRECT.value else "AwaitStates"
        last = "SendBulk" if role == "primary" else of_backup
        wait_record(node, since, 20, event="step", step=last, result="done")
        probe = traffic.report().probe
        assert_consistent(lab, since)
    assert probe.sent > 100
    assert probe.lost <= 2, "loading a table may cost a packet or two, a gap would cost many"
    found = records(node, since)
    assert find(found, event="started")
    assert "CommitStates" not in steps(found)
    assert [one["to"] for one in find(found, event="transition", result="done")] == [role]


def test_the_agent_is_killed_between_any_two_actions_of_a_takeover(lab: Lab, mode: SyncMode) -> None:
    with living(lab) as traffic:
        for passed in range(20):
            if passed == PLANS[mode].index("SwitchRules") + 1:
                continue  # the next record is that of the whole transition, not of an action
            done = take_over_and_kill_after(lab, mode, passed)
            assert_flows(traffic)
            if steps(done) == PLANS[mode]:
                return
    pytest.fail("the plan has not come to its end")


def take_over_and_kill_after(lab: Lab, mode: SyncMode, passed: int) -> list[Record]:
    """Kill the new primary's agent when it has written `passed` records of its takeover and has done what
    the next one is about; repair all; return the records that it wrote."""
    victim = wait_quiet(lab)
    heir = lab.node(other(lab, victim))
    with Turnstile(heir) as turnstile:
        since = lab.fail(victim, LINK_FAULT)
        lab.wait_primary(heir.name, 10)
        written = [turnstile.let_one_through() for _ in range(passed)]
        assert steps(written) == PLANS[mode][: len(steps(written))]
        if steps(written) != PLANS[mode]:
            turnstile.wait()
            while (opened := gate_is_open(heir)) is not (
                len(steps(written)) >= PLANS[mode].index("SwitchRules")
            ):
                # where the commit takes long, what is said of the dead link comes between
                written.append(turnstile.let_one_through())
                assert written[-1]["event"] == "alarm"
                turnstile.wait()
            heir.stop_service("agent", signal.SIGKILL)
    if steps(written) != PLANS[mode]:
        assert gate_is_open(heir) is opened
        again = time.monotonic_ns()
        heir.start_service("agent")
        wait_record(heir, again, 10, event="transition", to="primary", result="done")
        commits = mode is SyncMode.CACHE and not opened
        assert ("CommitStates" in steps(records(heir, again))) is commits, "committed once, but committed"
    lab.heal(victim)
    assert_consistent(lab, since)
    return written


def test_ten_hooks_find_no_agent(lab: Lab) -> None:
    since = time.monotonic_ns()
    with living(lab) as traffic:
        for name in lab.firewalls:
            lab.node(name).stop_service("agent")
        victim, survivor, moment = take_over(lab)
        heir = lab.node(survivor)
        heir.run(["sh", "-c", f"for i in 1 2 3 4 5 6 7 8 9 10; do {HOOK} GROUP G1 MASTER 0 & done; wait"])
        until(lambda: strangers(lab) == [], 60, lambda: f"they do not end: {strangers(lab)}")
        assert gate_is_open(heir)
        assert not gate_is_open(lab.node(victim))
        assert_flows(traffic)
        moves = find(records(heir, moment), event="transition")
        assert [(one["from"], one["to"]) for one in moves] == [("unknown", "primary")] * len(moves)
        assert 1 <= len(moves) <= 3, "thirteen hooks, one run and one more for those who came meanwhile"
        again = time.monotonic_ns()
        lab.heal(victim)
        lab.heal(survivor)
        assert_consistent(lab, since)
        found = records(heir, again)
    assert find(found, event="started")
    assert [one["to"] for one in find(found, event="transition")] == ["primary"]
    assert "CommitStates" not in steps(found)


def strangers(lab: Lab) -> list[str]:
    status = lab.status()
    return [one for name in lab.firewalls for one in find_strangers(lab.node(name), status.node(name))]


# -- conntrackd --


def hand_back(lab: Lab, since: int) -> None:
    """In cache mode a primary that had to do without the states says so until it is backup and has them."""
    primary = lab.wait_settled(30)
    node = lab.node(primary)
    assert find(records(node, since), event="alarm", condition="states")
    take_over(lab)
    lab.heal(primary)
    wait_record(node, since, 30, event="recovered", condition="states")


def test_a_takeover_without_conntrackd(lab: Lab, mode: SyncMode) -> None:
    primary = lab.wait_primary(None, 5)
    heir = lab.node(other(lab, primary))
    direct = mode is SyncMode.DIRECT
    with living(lab) if direct else contextlib.nullcontext():
        since = time.monotonic_ns()
        heir.stop_service("conntrackd", signal.SIGKILL)
        take_over(lab)
        done = wait_record(heir, since, 5, event="transition", to="primary", result="done")
        assert float(str(done["notified_to_open_ms"])) < 1000
        wait_record(heir, since, 2 * POLL_S, event="alarm", condition="conntrackd")
        back = time.monotonic_ns()
        lab.heal(heir.name)
        lab.heal(primary)
        wait_record(heir, back, 2 * POLL_S, event="recovered", condition="conntrackd")
        assert_consistent(lab, since, allowed=() if direct else {"states"})
    if not direct:
        hand_back(lab, since)
        assert_consistent(lab, since)


def test_a_takeover_with_a_hung_conntrackd(lab: Lab, mode: SyncMode) -> None:
    primary = lab.wait_primary(None, 5)
    heir = lab.node(other(lab, primary))
    direct = mode is SyncMode.DIRECT
    setup = Setup(sync=mode, states=500)
    put_states(lab, setup, primary, heir.name, lambda _: None)
    pair_file = heir.read_text(PAIR_FILE)
    heir.write_text(PAIR_FILE, pair_file + "gate: {limit: 2s, then: open}\n")
    reload(heir)
    with living(lab) if direct else contextlib.nullcontext():
        since = heir.signal_service("conntrackd", signal.SIGSTOP)
        take_over(lab)
        done = wait_record(heir, since, 10, event="transition", to="primary", result="done")
    opened_ms = float(str(done["notified_to_open_ms"]))
    assert opened_ms < 500 if direct else 2000 <= opened_ms < 3000
    alarm = wait_record(heir, since, POLL_S + 10, event="alarm", condition="conntrackd-silent")
    assert "did not answer" in str(alarm["message"]) or direct
    if direct:  # in cache mode the commit that is owed waits for an answer, and no plan asks anything
        until(lambda: bool(of_plans(heir)), POLL_S, "the announcement has not begun")
        cut = of_plans(heir)
        flush_rules(heir)  # nothing waits for conntrackd
        assert cut, "it ended before it could be cut off"
        until(lambda: not cut & questions(heir).keys(), 5, lambda: f"{questions(heir)} are left behind")
    else:
        flush_rules(heir)
    back = heir.signal_service("conntrackd", signal.SIGCONT)
    wait_record(heir, back, POLL_S + 10, event="recovered", condition="conntrackd-silent")
    heir.write_text(PAIR_FILE, pair_file)
    reload(heir)
    lab.heal(primary)
    assert_consistent(lab, since, allowed=() if direct else {"states"})
    assert count_states(heir) >= setup.states, "they could still be had"
    if not direct:
        late = [one for one in records(heir, back) if one.get("step") in ("CommitStates", "FlushCaches")]
        assert [one["step"] for one in late if one["result"] == "done"][:2] == [
            "CommitStates",
            "FlushCaches",
        ]
        assert not find(records(heir, since)[: -len(late)], step="FlushCaches", result="failed")
        wait_record(heir, back, POLL_S, event="recovered", condition="states")
        states = find(records(heir, since), event="alarm", condition="states")
        assert any("the gate opens without them" in str(one["message"]) for one in states)
        hand_back(lab, since)
        assert_consistent(lab, since)


def test_the_next_agent_makes_the_commit_that_is_owed(lab: Lab, mode: SyncMode) -> None:
    """The gate opened without its states, and then the agent was killed. In direct mode none is owed."""
    primary = lab.wait_primary(None, 5)
    heir = lab.node(other(lab, primary))
    owes = mode is SyncMode.CACHE
    pair_file = heir.read_text(PAIR_FILE)
    heir.write_text(PAIR_FILE, pair_file + "gate: {limit: 2s, then: open}\n")
    reload(heir)
    since = heir.signal_service("conntrackd", signal.SIGSTOP)
    take_over(lab)
    wait_record(heir, since, 10, event="transition", to="primary", result="done")
    assert is_marked(heir) is owes
    assert len(find(records(heir, since), step="MarkOwed", result="done")) == owes
    heir.stop_service("agent", signal.SIGKILL)
    heir.write_text(PAIR_FILE, pair_file)
    back = heir.signal_service("conntrackd", signal.SIGCONT)
    heir.start_service("agent")
    last = "CommitStates" if owes else "SendBulk"
    wait_record(heir, back, POLL_S + 10, event="step", step=last, result="done")
    until(lambda: not is_marked(heir), POLL_S, "the mark stays")
    assert bool(find(records(heir, back), step="CommitStates")) is owes
    until(lambda: "rules" in status_of(lab, heir), POLL_S, "no status yet")
    lab.heal(primary)
    assert_consistent(lab, since, allowed={"states"} if owes else ())


def is_marked(node: Node) -> bool:
    return node.run(["test", "-e", str(Paths().commit_owed)], check=False).returncode == 0


def reload(node: Node) -> None:
    """The rules are loaded again with every pair file."""
    moment = node.signal_service("agent", signal.SIGHUP)
    wait_record(node, moment, 5, event="step", step="VerifyRules", result="done")


@committing
def test_conntrackd_is_killed_between_commit_and_flush(lab: Lab) -> None:
    primary = lab.wait_primary(None, 5)
    heir = lab.node(other(lab, primary))
    with living(lab):
        with Turnstile(heir) as turnstile:
            since = lab.fail(primary, LINK_FAULT)
            assert turnstile.let_one_through()["step"] == "CommitStates"
            turnstile.wait()
            heir.stop_service("conntrackd", signal.SIGKILL)
        flush = wait_record(heir, since, 10, event="step", step="FlushCaches")
        assert flush["result"] == "failed"
        alarm = wait_record(heir, since, 5, event="alarm", condition="conntrackd")
        late_ns = int(str(alarm["mono_ns"])) - int(str(flush["mono_ns"]))
        assert late_ns < 500_000_000, "the flush shows it, not the next poll"
        back = time.monotonic_ns()
        lab.heal(heir.name)
        lab.heal(primary)
        wait_record(heir, back, 2 * POLL_S, event="recovered", condition="conntrackd")
        wait_record(heir, back, 5, event="step", step="SendBulk", result="done")
        assert_consistent(lab, since)


@committing
def test_a_commit_asked_for_while_another_one_runs(lab: Lab, mode: SyncMode) -> None:
    primary = lab.wait_primary(None, 5)
    heir = lab.node(other(lab, primary))
    setup = Setup(sync=mode, states=40_000)
    put_states(lab, setup, primary, heir.name, lambda _: None)
    wait_quiet(lab)
    with living(lab):
        since = time.monotonic_ns()
        begun = commits_begun(heir)
        with heir.popen(["conntrackd", "-c"]) as by_hand:
            until(lambda: commits_begun(heir) > begun, 5, "conntrackd does not begin to commit")
            # it stops in the middle of that until the agent asks it for the same
            heir.signal_service("conntrackd", signal.SIGSTOP)
            take_over(lab)
            until(
                lambda: status_of(lab, heir).get("phase") == "preparing",
                5,
                "the agent does not ask it for a commit",
            )
            heir.signal_service("conntrackd", signal.SIGCONT)
            done = wait_record(heir, since, 20, event="transition", to="primary", result="done")
            assert by_hand.wait(20) == 0
        assert count_states(heir) >= setup.states
        lab.heal(primary)
        assert_consistent(lab, since)
    commits = find(records(heir, since), step="CommitStates")
    assert [one["result"] for one in commits] == ["skipped"] * (len(commits) - 1) + ["done"]
    assert len(commits) > 1, "it came upon the other one"
    assert int(str(done["committed"])) >= int(str(done["expected"])) >= setup.states


def status_of(lab: Lab, node: Node) -> Mapping[str, Any]:
    return lab.status().node(node.name).agent or {}


def commits_begun(node: Node) -> int:
    return node.read_text(Paths().conntrackd_log).count("committing all external caches")


def questions(node: Node) -> dict[int, str]:
    """The agent's commands to conntrackd that have not ended: their option, by their process."""
    proc = Path(f"/proc/{node.pid}/root/proc")
    pid = node.service_pid("agent")
    children = (proc / f"{pid}/task/{pid}/children").read_text().split()
    found = {}
    for child in children:
        with contextlib.suppress(OSError):  # it has ended just now
            words = (proc / child / "cmdline").read_text().split("\0")
            if len(words) > 2:  # or it is not waited for yet, or not begun
                found[int(child)] = words[-2]
    return found


def of_plans(node: Node) -> set[int]:
    """Those questions that only a plan asks; the poll asks for statistics."""
    return {pid for pid, option in questions(node).items() if option != "-s"}
