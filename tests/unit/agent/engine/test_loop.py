# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop between the real core, the real executor and a fake host."""

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.actions import Committed, SwitchRules, Timer
from agent.core.conditions import Condition
from agent.core.events import ConditionSeen, Started
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase
from agent.model.pair import SyncMode
from agent.model.records import RecordKind
from tests.unit.agent.engine.bench import LIMIT_S, Bench


def test_a_takeover_in_direct_mode_waits_for_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.role(Role.PRIMARY)
            await bench.at_rest()
        assert bench.host.done == ["flip primary", "verify primary"]
        assert bench.host.loaded is RuleSet.PRIMARY

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", SyncMode)
def test_expectations_are_completed_before_the_gate_opens_and_recorded(
    tmp_path: Path, mode: SyncMode
) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, mode, helpers=True)
        async with bench.running(as_role=Role.BACKUP):
            bench.sink.records.clear()
            bench.role(Role.PRIMARY)
            await bench.at_rest()
        steps = bench.sink.of(RecordKind.STEP)
        names = [step.step for step in steps]
        before = ["CommitStates"] if mode is SyncMode.CACHE else []
        after = ["FlushCaches"] if mode is SyncMode.CACHE else []
        assert names == [
            *before,
            "CompleteExpectations",
            "SwitchRules",
            "CompleteRemaining",
            *after,
            "VerifyRules",
        ]
        assert "translation that conntrackd leaves out (at most 10 ms): 2" in steps[len(before)].message
        (transition,) = bench.sink.of(RecordKind.TRANSITION)
        assert {step.transition for step in steps} == {transition.transition}

    asyncio.run(scenario())


def test_expectations_that_cannot_be_completed_keep_no_gate_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, helpers=True)
        bench.host.failing = {"complete", "complete remaining"}
        async with bench.running(as_role=Role.BACKUP):
            bench.role(Role.PRIMARY)
            await bench.at_rest()
            assert bench.host.loaded is RuleSet.PRIMARY
        failed = [record.step for record in bench.sink.of(RecordKind.STEP) if record.result == "failed"]
        assert failed == ["CompleteExpectations", "CompleteRemaining"]
        assert not bench.sink.of(RecordKind.ALARM), "it says nothing of conntrackd"

    asyncio.run(scenario())


@pytest.mark.parametrize("writable", [True, False])
def test_a_gate_that_opens_without_its_states_is_marked_for_the_next_agent(
    tmp_path: Path, writable: bool
) -> None:
    """Also where the mark cannot be made: that is a failed step, and holds up nothing."""

    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.loop.settings = replace(bench.loop.settings, limit_s=1e-6)
        if not writable:
            bench.owed.mkdir()
        bench.host.failing = {"commit", "flush"}
        async with bench.running(as_role=Role.BACKUP):
            bench.role(Role.PRIMARY)
            async with asyncio.timeout(LIMIT_S):
                await bench.loop.until(lambda: bench.loop.state.phase is Phase.SERVING)
            assert bench.owed.is_file() is writable
            bench.role(Role.BACKUP)
            await bench.at_rest()
            assert bench.owed.exists() is not writable
        words = [record.result for record in bench.sink.of(RecordKind.STEP) if record.step == "MarkOwed"]
        assert words == (["done", "done"] if writable else ["failed"])

    asyncio.run(scenario())


def test_the_remaining_expectations_are_left_alone_by_a_node_that_is_no_longer_primary(
    tmp_path: Path,
) -> None:
    """The new one would be replicated back over the good one."""

    async def scenario() -> None:
        bench = Bench(tmp_path, helpers=True)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.held = {"look"}
            bench.role(Role.PRIMARY)
            await bench.until(lambda: "complete remaining" in bench.host.done)
            is_over = bench.host.completing[-1]
            assert not is_over()
            bench.role(Role.BACKUP)
            await bench.until(lambda: bench.host.loaded is RuleSet.BACKUP)
            await bench.until(is_over)
            bench.host.release("look")
            await bench.at_rest()
        abandoned = [
            record.step for record in bench.sink.of(RecordKind.STEP) if record.result == "abandoned"
        ]
        assert abandoned[0] == "CompleteRemaining"

    asyncio.run(scenario())


def test_the_newest_observation_wins_at_the_next_action_boundary(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.held = {"commit"}
        async with bench.running(as_role=Role.BACKUP):
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.at_work == ["commit"])
            for role in (Role.BACKUP, Role.PRIMARY, Role.FAULT, Role.BACKUP):
                bench.role(role)
            await bench.until(lambda: not bench.loop._queue)
            assert bench.host.at_work == ["commit"], "a commit is let finish"
            bench.host.release("commit")
            await bench.at_rest()
        assert bench.host.gate_opened == 0, "the plan of the role that was lost continued"
        assert str(bench.host) == "rules backup, at work: nothing"
        assert bench.host.done.count("commit") == 1

    asyncio.run(scenario())


def test_a_long_plan_needs_no_deep_stack(tmp_path: Path) -> None:
    """Each result was handled within the call that carried its action out."""
    many = sys.getrecursionlimit()

    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.executor.replace((SwitchRules(RuleSet.BACKUP),) * many)
            bench.loop.post(ConditionSeen(time.monotonic_ns(), Condition.BUS, True, "words"))
            await bench.at_rest()
        assert bench.host.done == ["flip backup"] * many

    asyncio.run(scenario())


def test_the_result_of_an_action_comes_before_what_waits(tmp_path: Path) -> None:
    """A role that is seen while an action is carried out reaches a core that knows of this action."""

    async def scenario() -> None:
        bench = Bench(tmp_path, helpers=True)
        known: list[RuleSet | None] = []
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.role(Role.PRIMARY)
            bench.role(Role.STOPPED)
            bench.loop.beat(lambda: known.append(bench.loop.state.loaded))
            bench.role(Role.PRIMARY)
            bench.loop.beat(lambda: known.append(bench.loop.state.loaded))
            await bench.at_rest()
        flips = [name for name in bench.host.done if name.startswith("flip")]
        assert flips == ["flip primary", "flip backup", "flip primary"]
        assert known == [RuleSet.BACKUP, RuleSet.PRIMARY]
        assert [one.result for one in bench.sink.of(RecordKind.TRANSITION)[1:]] == ["done"] * 3

    asyncio.run(scenario())


def test_who_waits_for_the_loop_sleeps_until_something_was_handled(tmp_path: Path) -> None:
    """`hafw settle` for its end, a reload for its rules: woken by what they wait for."""

    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.held = {"commit"}
        asked = 0

        def is_open() -> bool:
            nonlocal asked
            asked += 1
            return bench.host.loaded is RuleSet.PRIMARY

        async with bench.running(as_role=Role.BACKUP):
            waiting = asyncio.create_task(bench.loop.until(is_open))
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.at_work == ["commit"])
            before = asked
            for _ in range(100):
                await asyncio.sleep(0)
            assert asked <= before + 1, "it looks although nothing was handled"
            bench.host.release("commit")
            async with asyncio.timeout(LIMIT_S):
                await waiting
            assert bench.host.loaded is RuleSet.PRIMARY

    asyncio.run(scenario())


def test_what_may_be_abandoned_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        bench.host.held = {"await"}
        async with bench.running(as_role=Role.BACKUP):
            bench.fire(Timer.SETTLE)
            await bench.until(lambda: bench.host.at_work == ["await"])
            backup = bench.loop.log.current
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            await bench.at_rest()
        abandoned = [record for record in bench.sink.of(RecordKind.STEP) if record.result == "abandoned"]
        assert [record.step for record in abandoned] == ["AwaitStates"]
        assert backup is not None
        assert abandoned[0].transition == backup.identity, "it was a step of the transition before"
        assert "await" not in bench.host.done

    asyncio.run(scenario())


def test_a_commit_belongs_to_the_transition_that_asked_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.held = {"commit"}
        async with bench.running():
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.at_work == ["commit"])
            primary = bench.loop.log.current
            bench.role(Role.BACKUP)
            await bench.until(lambda: bench.loop.log.current is not primary)
            bench.host.release("commit")
            await bench.at_rest()
            assert primary is not None
            commit = next(
                record for record in bench.sink.of(RecordKind.STEP) if record.step == "CommitStates"
            )
            assert commit.transition == primary.identity
            last = bench.sink.of(RecordKind.TRANSITION)[-1]
            assert (last.to_role, last.expected, last.committed) == ("backup", None, None)

    asyncio.run(scenario())


def test_records_tell_the_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.committed = Committed(500, 500, 0, skipped=False, evidence="log")
        async with bench.running(as_role=Role.BACKUP):
            bench.sink.records.clear()
            bench.role(Role.PRIMARY, "notify GROUP G1 MASTER")
            await bench.at_rest()
        (transition,) = bench.sink.of(RecordKind.TRANSITION)
        assert (transition.from_role, transition.to_role) == ("backup", "primary")
        assert (transition.trigger, transition.result) == ("notify GROUP G1 MASTER", "done")
        assert (transition.expected, transition.committed) == (500, 500)
        assert transition.notified_to_open_ms is not None
        steps = bench.sink.of(RecordKind.STEP)
        assert [step.step for step in steps] == ["CommitStates", "SwitchRules", "FlushCaches", "VerifyRules"]
        assert {step.transition for step in steps} == {transition.transition}
        assert all(step.duration_ms is not None and step.result == "done" for step in steps)

    asyncio.run(scenario())


def test_a_transition_that_was_overtaken_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.held = {"commit"}
        async with bench.running():
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.at_work == ["commit"])
            bench.role(Role.STOPPED)
            bench.host.release("commit")
            await bench.until(lambda: len(bench.sink.of(RecordKind.TRANSITION)) == 2)
            await bench.at_rest()
        first, second = bench.sink.of(RecordKind.TRANSITION)
        assert (first.to_role, first.result) == ("primary", "superseded")
        assert (second.to_role, second.result) == ("stopped", "done")
        assert first.transition != second.transition

    asyncio.run(scenario())


def test_a_failed_step_of_conntrackd_is_recorded_and_the_rest_continues(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.failing = {"flush"}
        async with bench.running():
            bench.role(Role.PRIMARY)
            await bench.at_rest()
        assert "verify primary" in bench.host.done
        (failed,) = [record for record in bench.sink.of(RecordKind.STEP) if record.result == "failed"]
        assert failed.step == "FlushCaches"
        assert "did not answer" in failed.message
        (alarm,) = bench.sink.of(RecordKind.ALARM)
        assert alarm.condition == "conntrackd-silent"

    asyncio.run(scenario())


def test_rules_that_are_refused_keep_the_old_ones_and_are_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.failing = {"flip primary"}
            bench.role(Role.PRIMARY)
            await bench.at_rest()
            assert bench.host.loaded is RuleSet.BACKUP
            assert "keeping the loaded rules" in bench.sink.of(RecordKind.ALARM)[0].message
            bench.host.failing.clear()
            bench.fire(Timer.RETRY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            await bench.at_rest()
        assert [record.condition for record in bench.sink.of(RecordKind.RECOVERED)] == ["rules"]

    asyncio.run(scenario())


@pytest.mark.parametrize("bug", ["load backup", "commit"])
def test_a_bug_in_an_adapter_ends_the_loop(tmp_path: Path, bug: str) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.buggy = {bug}
        bench.loop.post(Started(time.monotonic_ns(), None))
        bench.role(Role.PRIMARY)
        async with asyncio.timeout(LIMIT_S):
            await bench.loop.run()

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(scenario())
    assert (
        raised.group_contains(ValueError, match=f"a bug in {bug}")
        if hasattr(raised, "group_contains")
        else (f"a bug in {bug}" in str(raised.value.exceptions))
    )


def test_cancelling_the_loop_leaves_the_rules_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.held = {"commit"}
        async with bench.running(loaded=RuleSet.PRIMARY):
            bench.role(Role.STOPPED)
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.at_work == ["commit"])
        assert str(bench.host) == "rules backup, at work: nothing"

    asyncio.run(scenario())


OCCURRENCES = st.lists(
    st.sampled_from(
        [
            Role.BACKUP,
            Role.PRIMARY,
            Role.FAULT,
            Role.STOPPED,
            Timer.SETTLE,
            Timer.RETRY,
            Timer.REFRESH,
            "turn",
        ]
    ),
    max_size=40,
)
NAMES = ("commit", "flush", "resync", "bulk", "request", "shorten", "await")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(SyncMode),
    failing=st.sets(st.sampled_from(NAMES)),
    occurrences=OCCURRENCES,
)
def test_whatever_comes_there_is_one_action_at_a_time_and_the_gate_fits_the_last_role(
    tmp_path: Path, mode: SyncMode, failing: set[str], occurrences: list[Role | Timer | str]
) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, mode)
        bench.host.failing = failing
        bench.host.held = {"commit"}
        last = Role.BACKUP
        async with bench.running():
            for what in (last, *occurrences):
                if isinstance(what, Role):
                    last = what
                    bench.role(what)
                elif isinstance(what, Timer):
                    bench.fire(what)
                else:
                    await asyncio.sleep(0)
            bench.host.release("commit")
            await bench.at_rest()
            while last is Role.PRIMARY and bench.host.loaded is not RuleSet.PRIMARY:
                # what failed has set a timer; time passes here without waiting
                assert Timer.RETRY in bench.executor._timers
                bench.host.failing = set()
                bench.fire(Timer.RETRY)
                await bench.at_rest()
        assert bench.host.most_at_work <= 1
        assert bench.host.loaded is (RuleSet.PRIMARY if last is Role.PRIMARY else RuleSet.BACKUP)
        identities = {record.transition for record in bench.sink.of(RecordKind.TRANSITION)}
        assert None not in identities

    asyncio.run(scenario())


def test_a_takeover_from_a_silent_peer_says_that_states_may_be_missing(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.role(Role.PRIMARY)
            await bench.at_rest()
            bench.role(Role.BACKUP)
            silence = "nothing has come from fw-2's conntrackd for 9 s"
            bench.loop.post(ConditionSeen(time.monotonic_ns(), Condition.PEER_SILENT, False, silence))
            await bench.at_rest()
            bench.role(Role.PRIMARY)
            await bench.at_rest()
        first, _, last = bench.sink.of(RecordKind.TRANSITION)[-3:]
        assert first.doubt is None
        assert "missing" not in first.message
        assert last.doubt == silence
        assert f"states may be missing: {silence}" in last.message

    asyncio.run(scenario())
