# SPDX-License-Identifier: GPL-2.0-or-later
"""What was refused of what comes from outside."""

import re
import time
from collections.abc import Callable

from agent.model.records import Record, RecordKind

AGAIN_S = 10.0
MAX_REASONS = 100


class Refusals:
    def __init__(self, write: Callable[[Record], None]) -> None:
        self._write = write
        self._refused: dict[str, tuple[float, int]] = {}

    def refuse(self, reason: str) -> None:
        """Bad input from outside: said at once, then at most every AGAIN_S with the number of times.
        The sender chooses the numbers in the reason, so they make no new one."""
        now = time.monotonic()
        kind = re.sub(r"\d+", "#", reason)
        last, count = self._refused.get(kind, (-AGAIN_S, 0))
        if now - last < AGAIN_S:
            self._refused[kind] = (last, count + 1)
            return
        if len(self._refused) > MAX_REASONS:
            self._refused.clear()
        self._refused[kind] = (now, 0)
        more = f" ({count} more since the last time)" if count else ""
        self._write(Record(RecordKind.REFUSED, f"refused {reason}{more}", time.monotonic_ns()))
