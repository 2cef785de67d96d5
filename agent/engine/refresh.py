# SPDX-License-Identifier: GPL-2.0-or-later
"""A primary reports states again before their copies on the backup run out: see agent/core/refresh.py."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from agent.adapters.conntrackd import kernel_states
from agent.core.refresh import PER_SECOND, Pass, Round, Slice


class Touches(Protocol):
    """agent/adapters/state_process.py."""

    async def touch_datagrams(self, per_second: float) -> int: ...
    async def touch_ending(self, part: Slice, ending: bytes, per_second: float) -> Pass: ...


class Refresh:
    def __init__(self, states: Touches, clock: Callable[[], float] = time.monotonic) -> None:
        self._states, self._clock = states, clock
        self._round = Round()
        self._ending = b""

    async def refresh(self) -> int:
        """How many states of datagrams were reported again. Raises HafwError."""
        touched = await self._states.touch_datagrams(PER_SECOND)
        following, part = self._round.next(self._clock(), kernel_states())
        if part is not None:
            done = await self._states.touch_ending(part, self._ending, PER_SECOND)
            self._ending, following = done.ending, replace(following, touched=done.touched)
        self._round = following  # a pass that did not end is made up for by the next one
        return touched
