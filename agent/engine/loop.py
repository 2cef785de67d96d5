# SPDX-License-Identifier: GPL-2.0-or-later
"""One queue: events in, each through the core, and the core's plans to the executor. No policy.

An action's result is the next event, before anything that waits: nothing comes between an action that is
done at once and the one after it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from agent.core.actions import Timer
from agent.core.conditions import Condition
from agent.core.events import ConditionSeen, Event, RoleSeen
from agent.core.handover import plan_last
from agent.core.machine import step
from agent.core.plan import Settings
from agent.core.state import State
from agent.engine.executor import Executor
from agent.engine.pulse import Pulse
from agent.engine.result import Result, event_of
from agent.engine.transition_log import Transition, TransitionLog
from agent.model.records import Record


@dataclass(frozen=True, slots=True)
class Beat:
    """Goes through the queue like an event."""

    answer: Callable[[], None]


class Loop:
    def __init__(self, settings: Settings, executor: Executor, write: Callable[[Record], None]) -> None:
        self.settings = settings
        self.state = State()
        self.on_change: Callable[[State], None] = lambda _state: None
        """Called with every state that differs from the one before; must return at once."""
        self.pulse = Pulse(self._report_stall)
        self.log = TransitionLog(write, self.pulse.stalled_ns)
        self._executor = executor
        self._queue: deque[Event | Beat] = deque()
        self._filled = asyncio.Event()
        self._handled = asyncio.Event()

    def post(self, event: Event) -> None:
        """Callable from anything on the event loop; never waits."""
        self._queue.append(event)
        self._filled.set()

    def beat(self, answer: Callable[[], None]) -> None:
        """`answer` is called when all that was posted before has been handled."""
        self._queue.append(Beat(answer))
        self._filled.set()

    def report(self, result: Result, transition: Transition | None) -> None:
        """What came of an action; the core may change its mind about the rest of the plan."""
        self.log.add(result, transition)
        if not result.abandoned:
            self._queue.appendleft(event_of(result))
            self._filled.set()

    def overdue(self) -> str | None:
        return self._executor.overdue()

    @property
    def is_busy(self) -> bool:
        """Something waits to be handled, or is being done."""
        return bool(self._queue) or self._executor.is_busy

    @property
    def is_idle(self) -> bool:
        """Nor is any settling to come, or another try."""
        return not self.is_busy and not self._executor.waits_for(Timer.SETTLE, Timer.RETRY)

    async def until(self, fact: Callable[[], bool]) -> None:
        """`fact` is about this loop or its state, which change only when events are handled."""
        while not fact():
            self._handled.clear()
            await self._handled.wait()

    async def run(self) -> None:
        """Forever; cancel to end. Nothing in the kernel changes at the end, except in the middle of a
        handover."""
        self.pulse.start()
        try:
            async with asyncio.TaskGroup() as group:
                self._executor.start(group, self)
                try:
                    await self._handle_all()
                finally:
                    self._executor.stop()
                    self._executor.carry_out_last(plan_last(self.settings, self.state))
        finally:
            self.pulse.stop()

    async def _handle_all(self) -> None:
        while True:
            await self._filled.wait()
            while self._queue:
                self._handle(self._queue.popleft())
            self._filled.clear()
            self._handled.set()

    def _handle(self, item: Event | Beat) -> None:
        if isinstance(item, Beat):
            item.answer()
            return
        before = self.state
        taken = step(self.settings, before, item)
        self.state = taken.state
        if isinstance(item, RoleSeen) and item.role is not before.role:
            self.log.begin(item, before.role, before.problems)
        self.log.report(taken.changes)
        if taken.state != before:
            self.on_change(taken.state)
        if taken.plan is not None:
            self._executor.replace(taken.plan)
        self._executor.work(self.log.current)

    def _report_stall(self, stalled: bool, seconds: float) -> None:
        stopped, over = f"the agent itself was stopped for {seconds:.1f} s", "the agent is not interrupted"
        text = stopped if stalled else over
        self.post(ConditionSeen(time.monotonic_ns(), Condition.STALL, not stalled, text))
