# SPDX-License-Identifier: GPL-2.0-or-later
"""What a failover looked like over time, for a plot: probes answered and bytes that arrived. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeBin:
    """Probes that were sent in the `BIN_MS` from `t_ms` on, counted from the fault."""

    t_ms: float
    sent: int
    answered: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes a second that the client's connections received, between `t_ms` and the moment before."""

    t_ms: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Series:
    probes: tuple[ProbeBin, ...] = ()
    rates: tuple[Rate, ...] = ()


BIN_MS = 10


def bin_probes(
    sent_ns: Sequence[int], answered: frozenset[int], zero_ns: int, *, before_ms: int, after_ms: int
) -> tuple[ProbeBin, ...]:
    """`sent_ns[seq]` is when probe `seq` left; bins without a probe are left out."""
    found = []
    for start_ms in range(-before_ms, after_ms, BIN_MS):
        first = bisect_left(sent_ns, zero_ns + start_ms * 1_000_000)
        last = bisect_left(sent_ns, zero_ns + (start_ms + BIN_MS) * 1_000_000)
        if last > first:
            count = sum(seq in answered for seq in range(first, last))
            found.append(ProbeBin(start_ms, last - first, count))
    return tuple(found)


def rates(samples: Sequence[tuple[int, int]], zero_ns: int) -> tuple[Rate, ...]:
    """From (time in ns, bytes so far), in the order of time; samples less than 20 ms apart are joined."""
    found: list[Rate] = []
    before = samples[0] if samples else (0, 0)
    for at_ns, total in samples[1:]:
        elapsed_ns = at_ns - before[0]
        if elapsed_ns >= 20_000_000:
            found.append(Rate((at_ns - zero_ns) / 1e6, (total - before[1]) * 1e9 / elapsed_ns))
            before = (at_ns, total)
    return tuple(found)
