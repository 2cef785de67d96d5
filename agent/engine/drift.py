# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether rules and readiness are still as the agent has made them, and what is done at once where not."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

from agent.core.conditions import Condition
from agent.core.events import ConditionSeen, Event, RulesChanged
from agent.core.plan import Settings
from agent.core.state import State
from agent.engine.executor import Executor
from agent.errors import HafwError, OvertakenError
from agent.rules.holes import TableChange, holes, sentence

REST = 2
"""Between two looks at the rules, as a multiple of how long the first has taken."""


class Knows(Protocol):
    """Which rules were loaded, whether external changes are repaired, and where events go."""

    settings: Settings
    state: State

    def post(self, event: Event) -> None: ...


class DriftCheck:
    def __init__(self, loop: Knows, executor: Executor) -> None:
        self._loop = loop
        self._executor = executor
        self._group: asyncio.TaskGroup | None = None
        self._read_changes: Callable[[], Collection[TableChange]] = tuple
        self._again = False
        self.is_checking = False

    def start(self, group: asyncio.TaskGroup, read_changes: Callable[[], Collection[TableChange]]) -> None:
        """`read_changes`: what the kernel has reported and nobody has read; a part if that is much."""
        self._group, self._read_changes = group, read_changes

    def stop(self) -> None:
        """Begins no more looks."""
        self._group = None

    def check_rules(self) -> None:
        """Compare the kernel with what was loaded, beside the loop; called when some rule somewhere changed.
        However often, one look is under way and one may wait."""
        if self._group is None or self.is_checking:
            self._again = self.is_checking
            return
        self.is_checking = True
        self._group.create_task(self._check_until_still())

    def rules_may_be_open(self, changes: Collection[TableChange]) -> bool:
        """What another program has opened is closed within this turn, and then the rules come back, also
        where the pair file says that changes are only reported. False when there was nothing to close."""
        loaded = self._loop.state.loaded
        if loaded is None:
            return False
        opening = [(change, opened) for change in changes if (opened := holes(change, loaded))]
        if not opening:
            return False
        try:
            closed = self._executor.rules.close({hole for _, opened in opening for hole in opened})
        except HafwError:
            return False  # the look that follows every change says what is wrong
        if closed:
            self._loop.post(RulesChanged(time.monotonic_ns(), sentence(opening, closed)))
        return bool(closed)

    def check_readiness(self) -> None:
        """keepalived reads it from a file, in which another program may have written."""
        ready = self._loop.state.ready
        if ready is None:
            return
        try:
            found = self._executor.readiness.restore(ready)
        except HafwError as error:
            found = error.message
        text = found or "keepalived reads the readiness that the agent has written"
        self._loop.post(ConditionSeen(time.monotonic_ns(), Condition.READINESS, found is None, text))

    async def _check_until_still(self) -> None:
        """A program that changes rules without end gets a part of our time: a look at a large table takes
        long."""
        try:
            while True:
                self._again = False
                begun = time.monotonic()
                await self._check_rules()
                if not self._again:
                    return
                await asyncio.sleep(REST * (time.monotonic() - begun))
        finally:
            self.is_checking = False

    async def _check_rules(self) -> None:
        loaded = self._loop.state.loaded
        if loaded is None or not self._loop.state.whole:
            return
        try:
            drift = await self._executor.find_drift(loaded)
        except OvertakenError:
            return  # the kernel reports our own change as well, and that is looked at next
        except HafwError as error:
            drift = str(error)
        # before the look had its turn, so that it knew of no change
        if self._loop.state.loaded is not loaded:
            self._again = True
            return
        if drift is not None and self._close_first():
            return
        now = time.monotonic_ns()
        if not self._loop.settings.repair:
            text = f"{drift}; left as it is, as the pair file says" if drift else "the rules are ours again"
            self._loop.post(ConditionSeen(now, Condition.RULES, drift is None, text))
        elif drift is not None:
            self._loop.post(RulesChanged(now, drift))

    def _close_first(self) -> bool:
        """Loading takes its time, so what was opened is closed before. True when it was: then all is loaded
        for that. What was read here brings no look by itself."""
        changes = self._read_changes()
        self._again = self._again or bool(changes)
        return self.rules_may_be_open(changes)
