# SPDX-License-Identifier: GPL-2.0-or-later
"""What is seen of external changes of rules and readiness, and done about them."""

import asyncio
import os
from pathlib import Path

import pytest

from agent.core.actions import Timer
from agent.core.roles import Role, RuleSet
from agent.model.records import RecordKind
from agent.rules.holes import UNKNOWN, Deed, TableChange
from agent.rules.objects import GATE_TABLE
from tests.unit.agent.engine.bench import Bench


def test_no_role_waits_for_a_look_at_the_rules(tmp_path: Path) -> None:
    """With a set of 100,000 addresses a look takes a second: a gate would stay open for as long."""

    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.held = {"look"}
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            bench.drift.check_rules()
            bench.role(Role.BACKUP)
            await bench.until(lambda: bench.host.loaded is RuleSet.BACKUP)
            bench.host.release("look")
            await bench.at_rest()
        abandoned = [record for record in bench.sink.of(RecordKind.STEP) if record.result == "abandoned"]
        assert [record.step for record in abandoned] == ["VerifyRules"]
        assert not bench.sink.of(RecordKind.ALARM)

    asyncio.run(scenario())


@pytest.mark.parametrize("repair", [True, False])
def test_a_look_that_waits_for_its_turn_does_not_take_our_flip_for_a_change(
    tmp_path: Path, repair: bool
) -> None:
    """Looks are made one after the other, in a thread of their own; a role may change before one begins."""

    async def scenario() -> None:
        bench = Bench(tmp_path, repair=repair)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.host.held = {"turn"}
            bench.drift.check_rules()
            await asyncio.sleep(0)
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            bench.host.release("turn")
            await bench.until(
                lambda: bench.host.done[-1] == "verify primary" and not bench.drift.is_checking
            )
            await bench.at_rest()
        assert not bench.sink.of(RecordKind.ALARM)
        assert "load primary" not in bench.host.done

    asyncio.run(scenario())


def test_of_many_hints_one_look_is_under_way_and_one_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.host.held = {"look"}
            for _ in range(10):
                bench.drift.check_rules()
                await asyncio.sleep(0)
            assert bench.host.done == ["verify backup"]
            bench.host.loaded = RuleSet.PRIMARY  # an external change, which overtakes this look as well
            bench.host.release("look")
            await bench.until(lambda: bench.host.loaded is RuleSet.BACKUP)
            await bench.at_rest()
        assert bench.host.done == ["verify backup", "verify backup", "load backup", "verify backup"]
        (alarm,) = bench.sink.of(RecordKind.ALARM)
        assert "the rules are rules primary" in alarm.message

    asyncio.run(scenario())


@pytest.mark.parametrize("repair", [True, False])
def test_a_flush_closes_first_and_loads_then_whatever_the_pair_file_says(
    tmp_path: Path, repair: bool
) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, repair=repair)
        async with bench.running(as_role=Role.PRIMARY):
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            await bench.at_rest()
            bench.host.done.clear()
            bench.drift.rules_may_be_open({UNKNOWN})
            assert bench.host.done == [], "it was not gone"
            bench.host.flushed = True
            bench.drift.rules_may_be_open(())
            bench.drift.rules_may_be_open({TableChange(GATE_TABLE, None, Deed.REMOVED)})
            assert bench.host.done == [], "the gate of a primary is open"
            bench.drift.rules_may_be_open({UNKNOWN})
            assert bench.host.done == ["close"]
            await bench.until(lambda: "load primary" in bench.host.done)
            await bench.at_rest()
        (alarm,) = bench.sink.of(RecordKind.ALARM)
        assert "is gone; until the rules are back nothing is forwarded" in alarm.message

    asyncio.run(scenario())


@pytest.mark.parametrize("repair", [True, False])
def test_a_look_that_comes_before_the_report_lets_that_close_first(tmp_path: Path, repair: bool) -> None:
    """Loading a large policy takes a second, in which no report of the kernel is read."""

    async def scenario() -> None:
        bench = Bench(tmp_path, repair=repair)
        async with bench.running(as_role=Role.PRIMARY):
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            await bench.at_rest()
            bench.changes = {UNKNOWN}
            bench.host.done.clear()
            bench.host.flushed, bench.host.edited = True, "chain forward"
            bench.drift.check_rules()
            await bench.until(lambda: "load primary" in bench.host.done and not bench.drift.is_checking)
            await bench.at_rest()
        assert bench.host.done[:3] == ["verify primary", "close", "load primary"]
        assert bench.host.done.count("load primary") == 1
        (alarm,) = bench.sink.of(RecordKind.ALARM)
        assert "is gone; until the rules are back nothing is forwarded" in alarm.message

    asyncio.run(scenario())


def test_what_a_look_has_read_of_the_reports_is_looked_at_as_well(tmp_path: Path) -> None:
    """Nobody else reads it any more: an edit that is taken back meanwhile would stay an alarm."""

    async def scenario() -> None:
        bench = Bench(tmp_path, repair=False)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.done.clear()
            bench.host.edited = "chain mine"
            bench.changes = {TableChange(GATE_TABLE, "mine", Deed.OTHER)}
            bench.host.held = {"look"}
            bench.drift.check_rules()
            await bench.until(lambda: bench.host.done == ["verify backup"])
            bench.host.held.add("turn")  # of the next look
            bench.host.release("look")
            await bench.until(lambda: bool(bench.sink.of(RecordKind.ALARM)))
            bench.host.edited = ""
            bench.host.release("turn")
            await bench.until(lambda: not bench.drift.is_checking)
            await bench.at_rest()
        assert bench.sink.of(RecordKind.RECOVERED)

    asyncio.run(scenario())


@pytest.mark.parametrize("repair", [True, False])
def test_an_edit_just_after_a_flip_is_repaired_or_only_reported(tmp_path: Path, repair: bool) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, repair=repair)
        async with bench.running(as_role=Role.BACKUP):
            bench.host.edited = "chain mine"
            bench.role(Role.PRIMARY)
            await bench.until(lambda: bench.host.loaded is RuleSet.PRIMARY)
            bench.drift.check_rules()
            await bench.until(lambda: bool(bench.sink.of(RecordKind.ALARM)))
            bench.fire(Timer.RETRY)
            await bench.at_rest()
        (alarm,) = bench.sink.of(RecordKind.ALARM)
        assert "chain mine" in alarm.message
        assert ("left as it is" in alarm.message) is not repair
        assert ("load primary" in bench.host.done) is repair

    asyncio.run(scenario())


@pytest.mark.parametrize("written", ["7\n", "", None, "a pipe"])
def test_readiness_that_another_program_wrote_is_restored(tmp_path: Path, written: str | None) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running(as_role=Role.BACKUP):
            bench.fire(Timer.SETTLE)
            await bench.at_rest()
            assert bench.ready.read_text() == "0\n"
            bench.drift.check_readiness()
            await bench.at_rest()
            assert not bench.sink.of(RecordKind.ALARM)
            bench.ready.unlink()
            if written == "a pipe":
                os.mkfifo(bench.ready)
            elif written is not None:
                bench.ready.write_text(written)
            bench.drift.check_readiness()
            await bench.at_rest()
            assert bench.ready.read_text() == "0\n"
            bench.drift.check_readiness()
            await bench.at_rest()
        (alarm,) = bench.sink.of(RecordKind.ALARM)
        (over,) = bench.sink.of(RecordKind.RECOVERED)
        assert (alarm.condition, over.condition) == ("readiness", "readiness")

    asyncio.run(scenario())
