# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries out plans: one action at a time, each by the one adapter that knows how. Decides nothing.

Changes of rules are made within the loop's turn, so nothing comes between the decision and the gate. What is
asked of conntrackd, and every look at the rules, runs beside the loop; when a newer plan arrives, an
abandonable one is no longer waited for, any other is let finish first.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agent.core.actions import (
    Action,
    Asked,
    AtOnce,
    AwaitStates,
    CommitStates,
    Compared,
    CompareStates,
    Completed,
    CompleteExpectations,
    CompleteRemaining,
    FlushCaches,
    LoadRules,
    MarkOwed,
    Outcome,
    Plan,
    Refreshed,
    RefreshStates,
    RequestResync,
    ResyncKernel,
    SendBulk,
    SetReadiness,
    SetStanding,
    SetTimer,
    ShortenTimers,
    StartClean,
    SwitchRules,
    Timer,
    VerifyRules,
)
from agent.core.events import TimerFired
from agent.core.roles import RuleSet
from agent.engine.commit_mark import CommitMark
from agent.engine.readiness import Readiness
from agent.engine.result import Result
from agent.engine.transition_log import Transition
from agent.errors import HafwError, OvertakenError, ToolError
from agent.rules.holes import Hole

MAX_STEP_S = 60.0
"""Every question to conntrackd has a time limit of its own, 30 s at the most."""


MAX_COMPARISON_S = 3600.0
"""Each part of a comparison has a time limit of its own."""


class Verified(Protocol):
    @property
    def drift(self) -> str | None: ...


Found = TypeVar("Found")
Complete = Callable[[float, Callable[[], bool]], Completed]
"""Of expectations, in so many seconds and until it is to stop. Raises HafwError."""


class Beside(Protocol):
    """Carries out what takes its time, without holding up the loop."""

    def __call__(self, job: Callable[[], Found], /) -> Awaitable[Found]: ...


class RulesAdapter(Protocol):
    """`verify` may run in another thread than the others."""

    def load(self, rules: RuleSet) -> object: ...
    def flip(self, rules: RuleSet) -> None: ...
    def close(self, holes: Collection[Hole]) -> frozenset[Hole]: ...
    def verify(self, rules: RuleSet) -> Verified: ...


class StatesAdapter(Protocol):
    async def commit(self, timeout_s: float) -> Outcome: ...
    async def flush_caches(self) -> None: ...
    async def resync_kernel(self) -> Outcome: ...
    async def send_bulk(self) -> None: ...
    async def start_clean(self) -> None: ...
    async def request_resync(self) -> None: ...
    async def shorten_timers(self) -> None: ...
    async def await_states(self, timeout_s: float) -> Outcome: ...


class ComparesStates(Protocol):
    """With the other node's agent."""

    async def compare(self, *, routine: bool) -> Outcome: ...


async def in_place(job: Callable[[], Found]) -> Found:
    return job()


class Reports(Protocol):
    """Hears of results and timers; never waits."""

    def report(self, result: Result, transition: Transition | None) -> None: ...
    def post(self, event: TimerFired) -> None: ...


@dataclass(frozen=True, slots=True)
class Running:
    action: Asked
    task: asyncio.Task[None]
    until_s: float


class Executor:
    def __init__(
        self,
        rules: RulesAdapter,
        states: StatesAdapter,
        readiness: Readiness,
        mark: CommitMark,
        complete: Complete,
        beside: Beside = in_place,
    ) -> None:
        self.comparison: ComparesStates | None = None
        """None where there is nobody to compare with."""
        self.refresh: Callable[[], Awaitable[int]] | None = None
        """Returns how many states were reported again; None in cache mode."""
        self.rules = rules
        self._beside = beside
        self._states = states
        self.readiness = readiness
        self._mark = mark
        self._complete = complete
        self._plan: deque[Action] = deque()
        self._running: Running | None = None
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._group: asyncio.TaskGroup | None = None
        self._reports: Reports | None = None

    def start(self, group: asyncio.TaskGroup, reports: Reports) -> None:
        self._group, self._reports = group, reports

    def stop(self) -> None:
        """Begins nothing more."""
        self._group = None
        self._plan.clear()
        for timer in self._timers.values():
            timer.cancel()

    def carry_out_last(self, plan: Plan) -> None:
        """When nothing else runs any more, and nobody hears what fails."""
        for action in plan:
            if isinstance(action, AtOnce):
                with contextlib.suppress(HafwError):
                    self._carry_out(action)

    @property
    def is_busy(self) -> bool:
        return bool(self._plan) or self._running is not None

    def waits_for(self, *timers: Timer) -> bool:
        return not self._timers.keys().isdisjoint(timers)

    def overdue(self) -> str | None:
        """Which step takes longer than any step may, because a part of the agent hangs."""
        if self._running is None or time.monotonic() < self._running.until_s:
            return None
        return self._running.action.describe()

    def replace(self, plan: Plan) -> None:
        self._plan = deque(plan)
        if self._running is not None and self._running.action.abandonable:
            self._running.task.cancel()
            self._running = None

    def work(self, transition: Transition | None) -> None:
        """Begin what is next, for `transition`; what can be done at once is done, and reported, when this
        returns."""
        while self._running is None and self._plan:
            action = self._plan.popleft()
            if isinstance(action, SetTimer):
                self._set_timer(action)
            elif isinstance(action, AtOnce):
                self._do(action, transition)
                return
            else:
                self._ask_for(action, transition)

    def _do(self, action: AtOnce, transition: Transition | None) -> None:
        begun = time.monotonic_ns()
        try:
            outcome = self._carry_out(action)
        except HafwError as error:
            self._report(transition, action, begun, error=error)
        else:
            self._report(transition, action, begun, outcome)

    def _ask_for(self, action: Asked, transition: Transition | None) -> None:
        if self._group is None:
            raise AssertionError("start() comes first")
        task = self._group.create_task(self._ask(action, transition))
        self._running = Running(action, task, time.monotonic() + budget_s(action))

    async def _ask(self, action: Asked, transition: Transition | None) -> None:
        begun = time.monotonic_ns()
        try:
            outcome = await self._carry_out_beside(action)
        except HafwError as error:
            self._running = None
            self._report(transition, action, begun, error=error)
        except asyncio.CancelledError:
            self._report(transition, action, begun, abandoned=True)
            raise
        else:
            self._running = None
            self._report(transition, action, begun, outcome)

    def _report(
        self,
        transition: Transition | None,
        action: Action,
        begun_ns: int,
        outcome: Outcome | None = None,
        error: HafwError | None = None,
        *,
        abandoned: bool = False,
    ) -> None:
        if self._reports is None:
            raise AssertionError("start() comes first")
        result = Result(action, begun_ns, time.monotonic_ns(), outcome, error, abandoned)
        self._reports.report(result, transition)

    def _set_timer(self, action: SetTimer) -> None:
        old = self._timers.pop(action.timer, None)
        if old is not None:
            old.cancel()
        loop = asyncio.get_running_loop()
        self._timers[action.timer] = loop.call_later(action.after_s, self._fire, action.timer)

    def _fire(self, timer: Timer) -> None:
        self._timers.pop(timer, None)
        if self._reports is not None:
            self._reports.post(TimerFired(time.monotonic_ns(), timer))

    def _carry_out(self, action: AtOnce) -> Outcome | None:
        """Raises HafwError; what was in force stays in force then."""
        match action:
            case CompleteExpectations():
                return self._complete(action.limit_s, lambda: False)
            case LoadRules():
                self.rules.load(action.rules)
            case SwitchRules():
                self.rules.flip(action.rules)
            case SetReadiness():
                self.readiness.write(action.ready)
            case SetStanding():
                self.readiness.stand(action.standing)
            case MarkOwed():
                self._mark.write(action.owed)
        return None

    async def _carry_out_beside(self, action: Asked) -> Outcome | None:
        """Raises HafwError."""
        match action:
            case CommitStates():
                return await self._states.commit(action.timeout_s)
            case CompareStates():
                return await self._compare(action)
            case RefreshStates():
                return Refreshed(await self.refresh() if self.refresh is not None else 0)
            case SendBulk():
                await self._states.send_bulk()
            case AwaitStates():
                return await self._states.await_states(action.timeout_s)
            case ResyncKernel():
                return await self._states.resync_kernel()
            case FlushCaches():
                await self._states.flush_caches()
            case StartClean():
                await self._states.start_clean()
            case RequestResync():
                await self._states.request_resync()
            case ShortenTimers():
                await self._states.shorten_timers()
            case CompleteRemaining():
                return await self._complete_remaining()
            case VerifyRules():
                await self._verify(action.rules)
        return None

    async def _compare(self, action: CompareStates) -> Outcome:
        if self.comparison is None:
            return Compared(reason="this process does not talk to the other node")
        return await self.comparison.compare(routine=action.routine)

    async def _complete_remaining(self) -> Completed:
        stop = threading.Event()
        try:
            return await self._beside(lambda: self._complete(math.inf, stop.is_set))
        finally:
            stop.set()

    async def find_drift(self, rules: RuleSet) -> str | None:
        """What differs from what was loaded and from `rules`. Raises HafwError; OvertakenError when it was
        changed meanwhile by load() or flip()."""
        adapter = self.rules
        return (await self._beside(lambda: adapter.verify(rules))).drift

    async def _verify(self, rules: RuleSet) -> None:
        try:
            drift = await self.find_drift(rules)
        except OvertakenError:
            return  # by a newer plan, which has a look of its own
        if drift is not None:
            raise ToolError(("nft",), drift, retryable=True)


def budget_s(action: Action) -> float:
    """After this time a step has not only failed: what should have ended it hangs."""
    if isinstance(action, CompareStates | RefreshStates):
        return MAX_COMPARISON_S
    asked_s = action.timeout_s if isinstance(action, CommitStates | AwaitStates) else 0.0
    return MAX_STEP_S + asked_s
