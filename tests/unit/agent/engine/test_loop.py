"""The loop between the real core, the real hands and a fake host."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.core.actions import Committed, Timer
from agent.core.conditions import Condition
from agent.core.events import ConditionSeen, RoleSeen, Started, TimerFired
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.engine.executor import Hands
from agent.engine.loop import Loop
from agent.model.pair import SyncMode
from agent.model.records import Kind
from agent.rules.holes import UNKNOWN, Change, Deed
from agent.rules.nft_json import GATE_TABLE
from tests.fakes import FakeHost, MemorySink

LIMIT_S = 5.0


class Bench:
    """One loop on a fake host. `role()` says what was seen, `until()` waits for a fact."""

    def __init__(
        self, tmp_path: Path, mode: SyncMode = SyncMode.DIRECT, *, mend: bool = True, helpers: bool = False
    ) -> None:
        self.host = FakeHost()
        self.sink = MemorySink()
        self.ready = tmp_path / "ready"
        hands = Hands(self.host, self.host, self.ready, -11, self.host.complete, self.host.beside)
        self.loop = Loop(Settings(mode=mode, mend=mend, helpers=helpers), hands, self.sink)

    def role(self, role: Role, trigger: str = "test") -> None:
        now = time.monotonic_ns()
        self.loop.post(RoleSeen(now, role, trigger, now))

    def fire(self, timer: Timer) -> None:
        self.loop.post(TimerFired(time.monotonic_ns(), timer))

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not fact():
                await asyncio.sleep(0)

    async def at_rest(self) -> None:
        """All that was posted has been met, and all that can be done without a timer is done."""
        loop = self.loop
        await self.until(lambda: loop._queue.empty() and not loop._plan and loop._running is None)

    @asynccontextmanager
    async def running(
        self, *, loaded: RuleSet | None = None, as_role: Role | None = None
    ) -> AsyncIterator[None]:
        """With `as_role`, at rest in it."""
        self.host.loaded = loaded
        self.loop.post(Started(time.monotonic_ns(), loaded))
        task = asyncio.create_task(self.loop.run())
        try:
            if as_role is not None:
                self.role(as_role)
                await self.at_rest()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_a_take_over_in_direct_mode_waits_for_nothing(tmp_path: Path) -> None:
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
        steps = bench.sink.of(Kind.STEP)
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
        (transition,) = bench.sink.of(Kind.TRANSITION)
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
        failed = [record.step for record in bench.sink.of(Kind.STEP) if record.result == "failed"]
        assert failed == ["CompleteExpectations", "CompleteRemaining"]
        assert not bench.sink.of(Kind.ALARM), "it says nothing of conntrackd"

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
        abandoned = [record.step for record in bench.sink.of(Kind.STEP) if record.result == "abandoned"]
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
            await bench.until(bench.loop._queue.empty)
            assert bench.host.at_work == ["commit"], "a commit is let finish"
            bench.host.release("commit")
            await bench.at_rest()
        assert bench.host.gate_opened == 0, "the plan of the role that was lost went on"
        assert str(bench.host) == "rules backup, at work: nothing"
        assert bench.host.done.count("commit") == 1

    asyncio.run(scenario())


def test_what_may_be_abandoned_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        bench.host.held = {"await"}
        async with bench.running(as_role=Role.BACKUP):
            bench.fire(Timer.SETTLE)
            await bench.until(lambda: bench.host.at_work == ["await"])
            backup = bench.loop.transition
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            await bench.at_rest()
        abandoned = [record for record in bench.sink.of(Kind.STEP) if record.result == "abandoned"]
        assert [record.step for record in abandoned] == ["AwaitStates"]
        assert backup is not None
        assert abandoned[0].transition == backup.identity, "it was a step of the transition before"
        assert "await" not in bench.host.done

    asyncio.run(scenario())


def test_no_role_waits_for_a_look_at_the_rules(tmp_path: Path) -> None:
    """With a set of 100,000 addresses a look takes a second: a gate would stay open for as long."""

    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.held = {"look"}
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            bench.loop.check_rules()
            bench.role(Role.BACKUP)
            await bench.until(lambda: bench.host.loaded is RuleSet.BACKUP)
            bench.host.release("look")
            await bench.at_rest()
        abandoned = [record for record in bench.sink.of(Kind.STEP) if record.result == "abandoned"]
        assert [record.step for record in abandoned] == ["VerifyRules"]
        assert not bench.sink.of(Kind.ALARM)

    asyncio.run(scenario())


@pytest.mark.parametrize("mend", [True, False])
def test_a_look_that_waits_for_its_turn_does_not_take_our_flip_for_a_change(
    tmp_path: Path, mend: bool
) -> None:
    """Looks are made one after the other, in a thread of their own; a role may change before one begins."""

    async def scenario() -> None:
        bench = Bench(tmp_path, mend=mend)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.host.held = {"turn"}
            bench.loop.check_rules()
            await asyncio.sleep(0)
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            bench.host.release("turn")
            await bench.until(lambda: bench.host.done[-1] == "verify primary" and not bench.loop._checking)
            await bench.at_rest()
        assert not bench.sink.of(Kind.ALARM)
        assert "load primary" not in bench.host.done

    asyncio.run(scenario())


def test_of_many_hints_one_look_is_under_way_and_one_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.host.held = {"look"}
            for _ in range(10):
                bench.loop.check_rules()
                await asyncio.sleep(0)
            assert bench.host.done == ["verify backup"]
            bench.host.loaded = RuleSet.PRIMARY  # by another hand, which overtakes this look as well
            bench.host.release("look")
            await bench.until(lambda: bench.host.loaded is RuleSet.BACKUP)
            await bench.at_rest()
        assert bench.host.done == ["verify backup", "verify backup", "load backup", "verify backup"]
        (alarm,) = bench.sink.of(Kind.ALARM)
        assert "the rules are rules primary" in alarm.message

    asyncio.run(scenario())


def test_a_commit_belongs_to_the_transition_that_asked_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.held = {"commit"}
        async with bench.running():
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.at_work == ["commit"])
            primary = bench.loop.transition
            bench.role(Role.BACKUP)
            await bench.until(lambda: bench.loop.transition is not primary)
            bench.host.release("commit")
            await bench.at_rest()
            assert primary is not None
            commit = next(record for record in bench.sink.of(Kind.STEP) if record.step == "CommitStates")
            assert commit.transition == primary.identity
            last = bench.sink.of(Kind.TRANSITION)[-1]
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
        (transition,) = bench.sink.of(Kind.TRANSITION)
        assert (transition.from_role, transition.to_role) == ("backup", "primary")
        assert (transition.trigger, transition.result) == ("notify GROUP G1 MASTER", "done")
        assert (transition.expected, transition.committed) == (500, 500)
        assert transition.notified_to_open_ms is not None
        steps = bench.sink.of(Kind.STEP)
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
            await bench.until(lambda: len(bench.sink.of(Kind.TRANSITION)) == 2)
            await bench.at_rest()
        first, second = bench.sink.of(Kind.TRANSITION)
        assert (first.to_role, first.result) == ("primary", "superseded")
        assert (second.to_role, second.result) == ("stopped", "done")
        assert first.transition != second.transition

    asyncio.run(scenario())


def test_a_failed_step_of_conntrackd_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, SyncMode.CACHE)
        bench.host.failing = {"flush"}
        async with bench.running():
            bench.role(Role.PRIMARY)
            await bench.at_rest()
        assert "verify primary" in bench.host.done
        (failed,) = [record for record in bench.sink.of(Kind.STEP) if record.result == "failed"]
        assert failed.step == "FlushCaches"
        assert "gave no answer" in failed.message
        (alarm,) = bench.sink.of(Kind.ALARM)
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
            assert "keeping the loaded rules" in bench.sink.of(Kind.ALARM)[0].message
            bench.host.failing.clear()
            bench.fire(Timer.RETRY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            await bench.at_rest()
        assert [record.condition for record in bench.sink.of(Kind.RECOVERED)] == ["rules"]

    asyncio.run(scenario())


@pytest.mark.parametrize("mend", [True, False])
def test_a_flush_closes_first_and_loads_then_whatever_the_pair_file_says(tmp_path: Path, mend: bool) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, mend=mend)
        async with bench.running(as_role=Role.PRIMARY):
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            await bench.at_rest()
            bench.host.done.clear()
            bench.loop.rules_may_be_open({UNKNOWN})
            assert bench.host.done == [], "it was not gone"
            bench.host.flushed = True
            bench.loop.rules_may_be_open(())
            bench.loop.rules_may_be_open({Change(GATE_TABLE, None, Deed.REMOVED)})
            assert bench.host.done == [], "the gate of a primary is open"
            bench.loop.rules_may_be_open({UNKNOWN})
            assert bench.host.done == ["close"]
            await bench.until(lambda: "load primary" in bench.host.done)
            await bench.at_rest()
        (alarm,) = bench.sink.of(Kind.ALARM)
        assert "is gone; until the rules are back nothing is forwarded" in alarm.message

    asyncio.run(scenario())


@pytest.mark.parametrize("mend", [True, False])
def test_an_edit_just_after_a_flip_is_mended_or_only_told_of(tmp_path: Path, mend: bool) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, mend=mend)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.edited = "chain mine"
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            bench.loop.check_rules()
            await bench.until(lambda: bool(bench.sink.of(Kind.ALARM)))
            bench.fire(Timer.RETRY)
            await bench.at_rest()
        (alarm,) = bench.sink.of(Kind.ALARM)
        assert "chain mine" in alarm.message
        assert ("left as it is" in alarm.message) is not mend
        assert ("load primary" in bench.host.done) is mend

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
                assert Timer.RETRY in bench.loop._timers
                bench.host.failing = set()
                bench.fire(Timer.RETRY)
                await bench.at_rest()
        assert bench.host.most_at_work <= 1
        assert bench.host.loaded is (RuleSet.PRIMARY if last is Role.PRIMARY else RuleSet.BACKUP)
        identities = {record.transition for record in bench.sink.of(Kind.TRANSITION)}
        assert None not in identities

    asyncio.run(scenario())


def test_a_take_over_from_a_silent_peer_says_that_states_may_be_missing(tmp_path: Path) -> None:
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
        first, _, last = bench.sink.of(Kind.TRANSITION)[-3:]
        assert first.doubt is None
        assert "missing" not in first.message
        assert last.doubt == silence
        assert f"states may be missing: {silence}" in last.message

    asyncio.run(scenario())


@pytest.mark.parametrize("written", ["7\n", "", None, "a pipe"])
def test_readiness_that_somebody_else_wrote_is_restored(tmp_path: Path, written: str | None) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.fire(Timer.SETTLE)
            await bench.at_rest()
            assert bench.ready.read_text() == "0\n"
            bench.loop.check_readiness()
            await bench.at_rest()
            assert not bench.sink.of(Kind.ALARM)
            bench.ready.unlink()
            if written == "a pipe":
                os.mkfifo(bench.ready)
            elif written is not None:
                bench.ready.write_text(written)
            bench.loop.check_readiness()
            await bench.at_rest()
            assert bench.ready.read_text() == "0\n"
            bench.loop.check_readiness()
            await bench.at_rest()
        (alarm,) = bench.sink.of(Kind.ALARM)
        (over,) = bench.sink.of(Kind.RECOVERED)
        assert (alarm.condition, over.condition) == ("readiness", "readiness")

    asyncio.run(scenario())
