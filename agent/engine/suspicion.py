# SPDX-License-Identifier: GPL-2.0-or-later
"""Which virtual addresses a dead keepalived has left: a suspicion, taken back when its reason goes."""

import time
from dataclasses import dataclass, replace

from agent.adapters.vrrp_process import Stat

RESOLUTION_NS = 20_000_000
"""The kernel keeps the moment at which a process began in hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """`since_ns`: when no keepalived was found alive, of CLOCK_BOOTTIME, as the kernel dates processes."""

    addresses: frozenset[str] = frozenset()
    since_ns: int = 0

    def after(
        self, held: frozenset[str], confirmed: frozenset[str], living: Stat | None, alive: bool
    ) -> "Suspicion":
        """`confirmed`: addresses whose instance says that it is master."""
        if not alive:
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            return Suspicion(held, self.since_ns if self.addresses else now)
        if living is not None and living.started_ns < self.since_ns - RESOLUTION_NS:
            return Suspicion()  # it lived all the time, and was not found
        return replace(self, addresses=(self.addresses & held) - confirmed)
