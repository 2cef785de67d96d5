# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this node is in maintenance: keepalived learns it by the readiness file, people by a record a day.

The machine knows nothing of it. A node that stands back is a backup like any other one, and a primary where
there is no other.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.adapters.maintenance_file import read_maintenance
from agent.core.maintenance import Maintenance
from agent.engine.executor import Beside
from agent.engine.readiness import Readiness
from agent.errors import HafwError
from agent.model.records import RecordKind

REMIND_AFTER_S = 24 * 3600.0
LOOK_S = 60.0
"""How long a day may be late: a timer of a day is none on a machine that sleeps."""


class MaintenanceWatch:
    def __init__(
        self, place: Path, readiness: Readiness, record: Callable[[RecordKind, str], None], beside: Beside
    ) -> None:
        self._place, self._readiness, self._record, self._beside = place, readiness, record, beside
        self.current: Maintenance | None = None
        self._reminded_s = 0.0

    def begin(self) -> None:
        """At the start, before anything is said to keepalived. One that cannot be read counts as the least:
        this node stands back."""
        try:
            self.current = read_maintenance(self._place)
        except HafwError as error:
            self.current = Maintenance("?", str(error)[:200])
        self._readiness.maintenance = self.current
        if self.current is not None:
            self._remind()

    async def take(self) -> Maintenance | None:
        """What is on the disk by now, from now on. Raises HafwError, and nothing changes."""
        found = await self._beside(partial(read_maintenance, self._place))
        before, self.current = self.current, found
        self._readiness.maintenance = found
        self._readiness.renew()
        if found is not None:
            self._remind()
        elif before is not None:
            self._record(RecordKind.MAINTENANCE, "maintenance is over: this node takes part again")
        return found

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self.current is not None and time.monotonic() - self._reminded_s >= REMIND_AFTER_S:
                self._remind()

    def _remind(self) -> None:
        self._reminded_s = time.monotonic()
        if self.current is not None:
            text = f"this node is in maintenance {self.current.describe()}; it ends by: hafw maintenance off"
            self._record(RecordKind.MAINTENANCE, text)
