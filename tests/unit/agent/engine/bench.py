# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop with the real core and the real executor, on a fake host."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.core.actions import Timer
from agent.core.events import RoleSeen, Started, TimerFired
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.engine.commit_mark import CommitMark
from agent.engine.drift import DriftCheck
from agent.engine.executor import Executor
from agent.engine.loop import Loop
from agent.engine.readiness import Readiness
from agent.model.pair import SyncMode
from agent.rules.holes import TableChange
from tests.fakes import FakeHost, MemorySink

LIMIT_S = 5.0


class Bench:
    """One loop on a fake host. `role()` says what was seen, `until()` waits for a fact."""

    def __init__(
        self, tmp_path: Path, mode: SyncMode = SyncMode.DIRECT, *, repair: bool = True, helpers: bool = False
    ) -> None:
        self.host = FakeHost()
        self.sink = MemorySink()
        self.ready = tmp_path / "ready"
        readiness = Readiness(self.ready, -11)
        self.owed = tmp_path / "commit-owed"
        mark = CommitMark(self.owed)
        self.executor = Executor(self.host, self.host, readiness, mark, self.host.complete, self.host.beside)
        self.loop = Loop(Settings(mode=mode, repair=repair, helpers=helpers), self.executor, self.sink.write)
        self.drift = DriftCheck(self.loop, self.executor)
        self.changes: set[TableChange] = set()
        """Of the rules, reported by the kernel, which nobody has read yet."""

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
        """All that was posted has been handled, and all that can be done without a timer is done."""
        async with asyncio.timeout(LIMIT_S):
            await self.loop.until(lambda: not self.loop.is_busy)

    def _read_changes(self) -> set[TableChange]:
        changes, self.changes = self.changes, set()
        return changes

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self.drift.start(group, self._read_changes)
            await self.loop.run()

    @asynccontextmanager
    async def running(
        self, *, loaded: RuleSet | None = None, as_role: Role | None = None
    ) -> AsyncIterator[None]:
        """With `as_role`, at rest in it."""
        self.host.loaded = loaded
        self.loop.post(Started(time.monotonic_ns(), loaded))
        task = asyncio.create_task(self._run())
        try:
            if as_role is not None:
                self.role(as_role)
                await self.at_rest()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
