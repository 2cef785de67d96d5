# SPDX-License-Identifier: GPL-2.0-or-later
"""What the poll of conntrackd tells the loop."""

import asyncio
from pathlib import Path

import pytest

from agent.adapters.conntrackd import Conntrackd
from agent.adapters.process import run
from agent.core.conditions import Condition
from agent.core.events import ConditionSeen, ConntrackdStarted, Event
from agent.core.replication import Losses
from agent.engine.loop import Beat, Loop
from agent.engine.replication import ReplicationCheck
from agent.model.pair import SyncMode
from agent.paths import Paths
from tests.checkout import RECORDED
from tests.unit.agent.engine import bench


class Bench(bench.Bench):
    def __init__(self, tmp_path: Path, tool: Path) -> None:
        super().__init__(tmp_path)
        self.paths = Paths(conntrackd=tool, conntrackd_socket=tmp_path / "conntrackd.ctl")
        conntrackd = Conntrackd(self.paths, SyncMode.DIRECT, run, expectations=False)
        self.replication = ReplicationCheck(conntrackd, self.loop)


def events_of(loop: Loop) -> list[Event]:
    found = [event for event in loop._queue if not isinstance(event, Beat)]
    loop._queue.clear()
    return found


def make_tool(tmp_path: Path) -> tuple[Path, Path, str]:
    """A conntrackd that prints what is in a file, that file, and what a real one has printed."""
    tool, printed = tmp_path / "conntrackd", tmp_path / "printed"
    tool.write_text(f"#!/bin/sh\nexec cat {printed}\n")
    tool.chmod(0o755)
    return tool, printed, (RECORDED / "direct-statistics.txt").read_text()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_conntrackd_that_restarts_before_the_first_poll_is_another_one(
    tmp_path: Path, restarts: bool
) -> None:
    tool = tmp_path / "conntrackd"
    statistics = RECORDED / "direct-statistics.txt"
    tool.write_text(f"#!/bin/sh\nexec cat {statistics}\n")
    tool.chmod(0o755)

    async def scenario() -> None:
        bench = Bench(tmp_path, tool)
        bench.paths.conntrackd_socket.touch()
        bench.replication.start()
        if restarts:
            (tmp_path / "another").touch()
            (tmp_path / "another").replace(bench.paths.conntrackd_socket)
        await bench.replication.check()
        events = events_of(bench.loop)
        assert any(isinstance(event, ConntrackdStarted) for event in events) is restarts

    asyncio.run(scenario())


def test_the_first_loss_of_all_is_reported(tmp_path: Path) -> None:
    """Counters of 0 are counters as well."""
    tool, printed, recorded = make_tool(tmp_path)

    async def scenario() -> None:
        bench = Bench(tmp_path, tool)
        bench.paths.conntrackd_socket.touch()
        for lost in (0, 500):
            assert "0 Lost msgs" in recorded
            printed.write_text(recorded.replace("0 Lost msgs", f"{lost} Lost msgs"))
            await bench.replication.check()
        problems = [one for one in events_of(bench.loop) if isinstance(one, ConditionSeen) and not one.ok]
        assert [one.condition for one in problems] == [Condition.REPLICATION]
        assert "500" in problems[0].text

    asyncio.run(scenario())


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_lost_during_a_comparison_counts_unless_that_ends_whole(tmp_path: Path, whole: bool) -> None:
    tool, printed, recorded = make_tool(tmp_path)

    async def scenario() -> None:
        bench = Bench(tmp_path, tool)
        bench.paths.conntrackd_socket.touch()
        at_work = [False]
        bench.replication.is_compared = lambda: at_work[0]
        for at_work[0], lost in (False, 0), (True, 500), (True, 700):
            printed.write_text(recorded.replace("0 Lost msgs", f"{lost} Lost msgs"))
            await bench.replication.check()
        assert not problems_of(bench)
        at_work[0] = False
        if whole:
            bench.replication.made_good(Losses(lost=700))
        await bench.replication.check()
        assert bool(problems_of(bench)) is not whole

    asyncio.run(scenario())


def test_an_answer_that_is_older_than_a_comparison_is_no_news(tmp_path: Path) -> None:
    """conntrackd's counters seem to go back then, as when it was started again."""
    recorded = (RECORDED / "direct-statistics.txt").read_text()
    printed, asked = tmp_path / "printed", tmp_path / "asked"
    tool = tmp_path / "conntrackd"
    tool.write_text(f"#!/bin/sh\ncat {printed}\ntouch {asked}\nwhile test -e {asked}; do sleep 0.01; done\n")
    tool.chmod(0o755)

    async def answer(bench: Bench, lost: int, found: Losses | None) -> None:
        printed.write_text(recorded.replace("0 Lost msgs", f"{lost} Lost msgs"))
        checking = asyncio.create_task(bench.replication.check())
        while not asked.exists():
            await asyncio.sleep(0.001)
        if found is not None:
            bench.replication.made_good(found)
        asked.unlink()
        await checking

    async def scenario() -> None:
        bench = Bench(tmp_path, tool)
        bench.paths.conntrackd_socket.touch()
        await answer(bench, 0, None)
        await answer(bench, 500, Losses(lost=700))
        assert not problems_of(bench)
        await answer(bench, 701, None)
        assert [one.condition for one in problems_of(bench)] == [Condition.REPLICATION]

    asyncio.run(scenario())


def problems_of(bench: Bench) -> list[ConditionSeen]:
    return [one for one in events_of(bench.loop) if isinstance(one, ConditionSeen) and not one.ok]


def test_a_conntrackd_that_comes_back_is_reported_though_a_question_was_answered_first(
    tmp_path: Path,
) -> None:
    statistics = RECORDED / "direct-statistics.txt"
    tool = tmp_path / "conntrackd"
    tool.write_text(f"#!/bin/sh\ntest -e {tmp_path}/conntrackd.ctl && exec cat {statistics}\n")
    tool.chmod(0o755)

    async def scenario() -> None:
        bench = Bench(tmp_path, tool)
        await bench.replication.check()
        bench.paths.conntrackd_socket.touch()
        # nothing has handled the failure, as if an answer had ended what it began
        assert not bench.loop.state.problems
        await bench.replication.check()
        assert any(isinstance(event, ConntrackdStarted) for event in events_of(bench.loop))

    asyncio.run(scenario())
