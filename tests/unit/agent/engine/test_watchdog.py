# SPDX-License-Identifier: GPL-2.0-or-later
"""The watchdog is fed by work that gets done, and by nothing else."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.adapters.service import ServiceManager
from agent.core.actions import Timer
from agent.core.events import RoleSeen, Started, TimerFired
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.engine import executor as executor_module
from agent.engine import watchdog
from agent.engine.commit_mark import CommitMark
from agent.engine.executor import Executor
from agent.engine.loop import Loop
from agent.engine.readiness import Readiness
from tests.fakes import FakeHost, MemorySink

LIMIT_S = 20.0


class Bench:
    def __init__(self, tmp_path: Path) -> None:
        self.host = FakeHost(loaded=RuleSet.BACKUP)
        readiness = Readiness(tmp_path / "ready", -11)
        executor = Executor(
            self.host, self.host, readiness, CommitMark(tmp_path / "owed"), self.host.complete
        )
        self.loop = Loop(Settings(), executor, MemorySink().write)
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.setblocking(False)
        self.ear.bind(str(tmp_path / "notify"))
        # four beats in 40 ms
        self.manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "40000"})
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1

    def fed(self) -> int:
        """How often, since the last call."""
        found = 0
        with suppress(BlockingIOError):
            while self.ear.recv(100):
                found += 1
        return found

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not fact():
                await asyncio.sleep(0.001)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self.loop.run()),
            asyncio.create_task(watchdog.feed(self.loop, self.manager, self.flush)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.manager.close()
            self.ear.close()


def test_a_loop_that_works_feeds_it_and_what_waits_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        async with bench.running():
            await bench.until(lambda: bench.fed() > 0)
            await bench.until(lambda: bench.fed() > 0)
            assert bench.flushed > 0

    asyncio.run(scenario())


class Stuck:
    """A loop that takes beats and handles them when it is asked to."""

    def __init__(self) -> None:
        self.beats: list[Callable[[], None]] = []

    def beat(self, answer: Callable[[], None]) -> None:
        self.beats.append(answer)

    def overdue(self) -> str | None:
        return None


def test_a_loop_that_does_not_handle_its_events_starves_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench, stuck = Bench(tmp_path), Stuck()
        feeding = asyncio.create_task(watchdog.feed(stuck, bench.manager, bench.flush))
        await bench.until(lambda: len(stuck.beats) == 1)
        await asyncio.sleep(0.2)  # twenty beats would fit
        assert bench.fed() == 0
        stuck.beats[0]()
        await bench.until(lambda: bench.fed() == 1)
        feeding.cancel()
        bench.manager.close()
        bench.ear.close()

    asyncio.run(scenario())


def test_a_step_that_takes_longer_than_it_may_starves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "MAX_STEP_S", 0.05)

    async def scenario() -> None:
        bench = Bench(tmp_path)
        bench.host.held.add("resync")
        async with bench.running():
            now = time.monotonic_ns()
            bench.loop.post(Started(now, RuleSet.PRIMARY))
            bench.loop.post(RoleSeen(now, Role.PRIMARY, "test", now))
            bench.loop.post(TimerFired(now, Timer.SETTLE))
            await bench.until(lambda: bench.loop.overdue() is not None)
            assert "conntrackd -R" in str(bench.loop.overdue())
            flushed = bench.flushed
            bench.fed()
            await bench.until(lambda: bench.flushed > flushed + 3)
            assert bench.fed() == 0, "the loop goes round, and yet nothing gets done"
            bench.host.release("resync")
            await bench.until(lambda: bench.fed() > 0)

    asyncio.run(scenario())
