# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this process itself stalls: stopped by a signal, or kept from the processor, or busy.

What happened meanwhile is seen only afterwards, so it seems to have taken no time. A beat that comes late
says how long nothing was seen; the records count that in.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

BEAT_S = 0.25
STALL_NS = 1_000_000_000
OVER_AFTER_NS = 5_000_000_000
CATCHING_UP_NS = 100_000_000
MAX_STALLS = 8


class Pulse:
    """`on_stall` is called with True and the seconds of a stall, and with False when none has come since for
    a while."""

    def __init__(self, on_stall: Callable[[bool, float], None]) -> None:
        self._on_stall = on_stall
        self._timer: asyncio.TimerHandle | None = None
        self._stalls: deque[tuple[int, int]] = deque(maxlen=MAX_STALLS)
        self._open = False
        self.last_ns = time.monotonic_ns()

    def start(self) -> None:
        self.last_ns = time.monotonic_ns()
        self._timer = asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_late(self, now_ns: int) -> bool:
        """Nothing was done since the last beat, and for longer than a busy loop takes."""
        return self._timer is not None and now_ns - self.last_ns > STALL_NS

    def behind_since_ns(self, now_ns: int) -> int | None:
        """When the stall began whose events are read now: one that still lasts, or has ended a moment ago. A
        wait that was interrupted ends without events, and the beat comes before them."""
        if self.is_late(now_ns):
            return self.last_ns
        if self._stalls and now_ns - self._stalls[-1][1] < CATCHING_UP_NS:
            return self._stalls[-1][0]
        return None

    def stalled_ns(self, begin_ns: int, end_ns: int) -> int:
        """How much of that time this process was stalled."""
        stalls = [*self._stalls]
        if self.is_late(end_ns):
            stalls.append((self.last_ns, end_ns))
        return sum(max(0, min(end, end_ns) - max(begin, begin_ns)) for begin, end in stalls)

    def _beat(self) -> None:
        now = time.monotonic_ns()
        if self.is_late(now):
            self._stalls.append((self.last_ns, now))
            self._open = True
            self._on_stall(True, (now - self.last_ns) / 1e9)
        elif self._open and now - self._stalls[-1][1] > OVER_AFTER_NS:
            self._open = False
            self._on_stall(False, 0.0)
        self.start()
