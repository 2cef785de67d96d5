# SPDX-License-Identifier: GPL-2.0-or-later
"""How the clock of a machine stands to this machine's. Each kernel counts CLOCK_MONOTONIC from its own
start. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from hafw_lab.client.records import Record

# Each line that comes in is answered with the time, until the input ends.
PROGRAM = """import sys, time
for line in sys.stdin:
    print(time.monotonic_ns(), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Clock:
    """`offset_ns` has to be added to the node's CLOCK_MONOTONIC to get this machine's; it may be wrong by up
    to `error_ns` either way."""

    offset_ns: int = 0
    error_ns: int = 0

    def at_home(self, at_ns: int) -> int:
        return at_ns + self.offset_ns

    def records(self, found: Iterable[Record]) -> tuple[Record, ...]:
        return tuple(self._record(record) for record in found)

    def _record(self, record: Record) -> Record:
        at_ns = record.get("mono_ns")
        return {**record, "mono_ns": self.at_home(at_ns)} if isinstance(at_ns, int) else record


SAME_CLOCK = Clock()


def compute_clock(samples: Iterable[tuple[int, int, int]]) -> Clock:
    """From (asked, the node's answer, received): the quickest round trip tells most, since the answer was
    given at some time within it."""
    asked_ns, there_ns, received_ns = min(samples, key=lambda sample: sample[2] - sample[0])
    half_ns = (received_ns - asked_ns + 1) // 2
    return Clock(asked_ns + half_ns - there_ns, half_ns)
