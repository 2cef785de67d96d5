# SPDX-License-Identifier: GPL-2.0-or-later
"""Fakes at our own edges: a host that remembers what was done to it and fails on what nobody expects."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from agent.core.actions import Committed, Completed, Reread, StatesIn
from agent.core.roles import RuleSet
from agent.engine.executor import Found
from agent.errors import OvertakenError, SilentError, ToolError
from agent.model.records import Record, RecordKind
from agent.rules.holes import Hole


@dataclass
class MemorySink:
    """Records, in memory."""

    records: list[Record] = field(default_factory=list)
    lost: int = 0

    def write(self, record: Record) -> None:
        self.records.append(record)

    def of(self, kind: RecordKind) -> list[Record]:
        return [record for record in self.records if record.event is kind]


@dataclass(frozen=True, slots=True)
class FakeVerified:
    drift: str | None


@dataclass
class FakeHost:
    """Rules and states of one node; `str()` is its state, `done` what was carried out, in order.

    `failing` has the names of what fails as a tool fails, `buggy` of what fails as no adapter may. What is
    in `held` does not end before `release()`. `edited`: external changes to our table.
    """

    loaded: RuleSet | None = None
    edited: str = ""
    flushed: bool = False
    """Another program has removed our table."""
    failing: set[str] = field(default_factory=set)
    buggy: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)
    committed: Committed = field(default_factory=lambda: Committed(3, 3, 0, skipped=False, evidence="log"))
    at_work: list[str] = field(default_factory=list)
    most_at_work: int = 0
    gate_opened: int = 0
    completing: list[Callable[[], bool]] = field(default_factory=list)
    """What says to each work on expectations whether it is to stop."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __str__(self) -> str:
        rules = self.loaded.value if self.loaded else "none"
        return f"rules {rules}, at work: {', '.join(self.at_work) or 'nothing'}"

    def release(self, *names: str) -> None:
        self.held -= set(names)
        self._changed.set()

    @contextmanager
    def _rules(self, name: str) -> Iterator[None]:
        self.done.append(name)
        if name in self.buggy:
            raise ValueError(f"a bug in {name}")
        if name in self.failing:
            raise ToolError(("nft",), f"{name} was refused")
        yield

    def load(self, rules: RuleSet) -> object:
        with self._rules(f"load {rules.value}"):
            self.loaded = rules
            self.edited = ""
            self.gate_opened += rules is RuleSet.PRIMARY
        return None

    def flip(self, rules: RuleSet) -> None:
        with self._rules(f"flip {rules.value}"):
            assert self.loaded is not None, "there is no table to flip"
            self.loaded = rules
            self.gate_opened += rules is RuleSet.PRIMARY

    def close(self, holes: Collection[Hole]) -> frozenset[Hole]:
        if not self.flushed:
            return frozenset()
        with self._rules("close"):
            self.flushed = False
        return frozenset(holes)

    def verify(self, rules: RuleSet) -> FakeVerified:
        with self._rules(f"verify {rules.value}"):
            return FakeVerified(self.edited or (None if self.loaded is rules else f"the rules are {self}"))

    def complete(self, limit_s: float, is_over: Callable[[], bool]) -> Completed:
        name = "complete" if math.isfinite(limit_s) else "complete remaining"
        with self._rules(name):
            self.completing.append(is_over)
            return Completed(2, all_seen=not is_over())

    async def beside(self, look: Callable[[], Found]) -> Found:
        """A look at the rules: it begins when "turn" is not held, and takes as long as "look" is."""
        while "turn" in self.held:
            self._changed.clear()
            await self._changed.wait()
        seen, before = look(), self.loaded
        while "look" in self.held:
            self._changed.clear()
            await self._changed.wait()
        if self.loaded is not before:
            raise OvertakenError("the rules were changed while they were read")
        return seen

    @asynccontextmanager
    async def _states(self, name: str) -> AsyncIterator[None]:
        self.at_work.append(name)
        self.most_at_work = max(self.most_at_work, len(self.at_work))
        try:
            while name in self.held:
                self._changed.clear()
                await self._changed.wait()
            await asyncio.sleep(0)
            if name in self.buggy:
                raise ValueError(f"a bug in {name}")
            if name in self.failing:
                raise SilentError(("conntrackd",), f"{name} did not answer", retryable=True)
            self.done.append(name)
            yield
        finally:
            self.at_work.remove(name)

    async def commit(self, timeout_s: float) -> Committed:
        assert timeout_s > 0
        async with self._states("commit"):
            return self.committed

    async def flush_caches(self) -> None:
        async with self._states("flush"):
            return

    async def resync_kernel(self) -> Reread:
        async with self._states("resync"):
            return Reread(3, 3, 3)

    async def send_bulk(self) -> None:
        async with self._states("bulk"):
            return

    async def start_clean(self) -> None:
        async with self._states("start clean"):
            return

    async def request_resync(self) -> None:
        async with self._states("request"):
            return

    async def shorten_timers(self) -> None:
        async with self._states("shorten"):
            return

    async def await_states(self, timeout_s: float) -> StatesIn:
        assert timeout_s > 0
        async with self._states("await"):
            return StatesIn(3, peer_heard=True)
