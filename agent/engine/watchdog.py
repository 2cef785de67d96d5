# SPDX-License-Identifier: GPL-2.0-or-later
"""The watchdog's food: proof that the loop gets on with its work.

A beat goes through the loop's own queue, so it comes back only when everything before it was handled; and it
counts only while no step takes longer than it may. A hung call, a full queue and a step that never ends all
starve the watchdog; the service manager then ends the process, and a new one begins with a look at what is
true.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from agent.adapters.service import ServiceManager

BEATS = 4
"""In the time that the watchdog waits."""
WITHOUT_WATCHDOG_S = 5.0


class Beating(Protocol):
    def beat(self, answer: Callable[[], None]) -> None: ...
    def overdue(self) -> str | None: ...


async def feed(loop: Beating, manager: ServiceManager, flush: Callable[[], None]) -> None:
    """Forever. `flush` is called with every beat: for what could not be written when it happened."""
    interval_s = (manager.watchdog_s or BEATS * WITHOUT_WATCHDOG_S) / BEATS
    while True:
        await through(loop)
        if loop.overdue() is None:
            manager.feed_watchdog()
        flush()
        await asyncio.sleep(interval_s)


async def through(loop: Beating) -> None:
    """Until all that was posted to the loop before has been handled."""
    handled = asyncio.Event()
    loop.beat(handled.set)
    await handled.wait()
