# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of what comes from outside is taken in a second. What comes faster waits in the kernel, which
throws away what it has no room for: that costs us nothing, at whatever priority we run.

Only hints are read so. One of many says as much as all of them, and the slow poll comes anyway.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    at_once: int
    per_second: float
    """After `at_once`, and until as many have been spared again."""


class PacedReader:
    """A reader of the event loop. `take` is called when there is something to read, takes a bounded part of
    it and returns how many things that were; `on_wait` when the rest has to wait."""

    def __init__(
        self,
        descriptor: int,
        take: Callable[[], int],
        pace: Pace,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._descriptor = descriptor
        self._take = take
        self._pace = pace
        self._on_wait = on_wait
        self._left = float(pace.at_once)
        self._counted = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._listen()

    def close(self) -> None:
        """Before the descriptor is closed; `take` may do it."""
        self._closed = True
        self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()

    def _listen(self) -> None:
        self._timer = None
        self._loop.add_reader(self._descriptor, self._readable)

    def _readable(self) -> None:
        now = time.monotonic()
        spared = (now - self._counted) * self._pace.per_second
        self._left = min(self._left + spared, self._pace.at_once) - self._take()
        self._counted = now
        if self._left < 1 and not self._closed:
            self._loop.remove_reader(self._descriptor)
            self._timer = self._loop.call_later((1 - self._left) / self._pace.per_second, self._listen)
            self._on_wait()
