# SPDX-License-Identifier: GPL-2.0-or-later
"""From what the two ends of the traffic saw to the figures: who survived, how long the silence was. Pure."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

ALIVE_WITHIN_NS = 1_000_000_000
"""A connection over which 10 ms messages flow and that has been silent for this long at the end is not
alive."""
UNDER_WAY_NS = 250_000_000
"""A probe younger than this may still be answered."""
RESETS = frozenset({"ECONNRESET", "EPIPE"})


@dataclass(frozen=True, slots=True)
class Connection:
    """One TCP connection as both ends saw it. `ended` is the name of the error at the end that saw it
    first."""

    number: int
    messages: int
    intact: bool
    last_ns: int
    stall_ns: int
    stall_from_ns: int
    ended: str | None
    ended_ns: int
    survived: bool
    lost: int = 0
    """Segments, in both directions, since it was opened."""

    @property
    def reset(self) -> bool:
        return self.ended in RESETS

    @property
    def resumed_ns(self) -> int:
        """The end of its longest silence."""
        return self.stall_from_ns + self.stall_ns


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """`blackout_ns` is the longest time without an echo, counted from `blackout_from_ns`; `resumed_ns` is
    None if no echo came back after it. `silence_ns` is the same seen from the sending side: between the
    sending of the last probe that was answered before the longest run of unanswered ones and of the first
    one after it."""

    sent: int
    lost: int
    first_lost: int | None
    last_lost: int | None
    blackout_ns: int
    blackout_from_ns: int
    resumed_ns: int | None
    silence_ns: int


def judge(
    client: Sequence[Mapping[str, object]],
    server: Sequence[Mapping[str, object]],
    now_ns: int,
    within_ns: int = ALIVE_WITHIN_NS,
) -> tuple[Connection, ...]:
    """Both ends' reports, merged by connection number. Survived = no end saw an error, nothing is missing or
    twice in what arrived, and something has arrived `within_ns` before `now_ns`. A connection that the
    server has not heard of did not survive."""
    far = {_int(row, "number"): row for row in server}
    return tuple(_judge(row, far.get(_int(row, "number")), now_ns, within_ns) for row in client)


def _judge(
    near: Mapping[str, object], far: Mapping[str, object] | None, now_ns: int, within_ns: int
) -> Connection:
    ends = sorted((_int(row, "ended_ns"), str(row["ended"])) for row in (near, far) if row and row["ended"])
    ended_ns, ended = ends[0] if ends else (0, None)
    intact, last_ns = bool(near["intact"]), _int(near, "last_ns")
    return Connection(
        number=_int(near, "number"),
        messages=_int(near, "messages"),
        intact=intact,
        last_ns=last_ns,
        stall_ns=_int(near, "stall_ns"),
        stall_from_ns=_int(near, "stall_from_ns"),
        ended=ended,
        ended_ns=ended_ns,
        survived=ended is None and far is not None and intact and now_ns - last_ns < within_ns,
        lost=_int(near, "lost") + (_int(far, "lost") if far else 0),
    )


def measure_probe(
    sent_ns: Sequence[int], received: Sequence[tuple[int, int]], *, mark_seq: int, now_ns: int
) -> ProbeFigures:
    """Figures of the probes from `mark_seq` on. `sent_ns[seq]` is when a probe left, `received` are (seq,
    time) of the echoes in the order of their arrival; repeats are ignored. Probes younger than
    `UNDER_WAY_NS` are left out. A silence that still lasts at the last probe counts up to there."""
    end_seq = bisect_right(sent_ns, now_ns - UNDER_WAY_NS)
    if end_seq <= mark_seq:
        return ProbeFigures(0, 0, None, None, 0, now_ns, now_ns, 0)
    echoes: dict[int, int] = {}
    for seq, at_ns in received:
        if mark_seq <= seq < end_seq:
            echoes.setdefault(seq, at_ns)
    lost = [seq for seq in range(mark_seq, end_seq) if seq not in echoes]
    gap = longest_gap(list(echoes.values()), sent_ns[mark_seq], sent_ns[end_seq - 1])
    return ProbeFigures(
        sent=end_seq - mark_seq,
        lost=len(lost),
        first_lost=lost[0] if lost else None,
        last_lost=lost[-1] if lost else None,
        blackout_ns=gap.length_ns,
        blackout_from_ns=gap.from_ns,
        resumed_ns=gap.until_ns,
        silence_ns=_longest_unanswered(sent_ns[:end_seq], sorted(echoes), mark_seq),
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """`until_ns` is None while it lasts."""

    length_ns: int
    from_ns: int
    until_ns: int | None


def longest_gap(times_ns: Sequence[int], start_ns: int, end_ns: int) -> Gap:
    """The longest time without an event from `start_ns` to `end_ns`, given sorted event times; the first of
    equals."""
    edges = [start_ns, *times_ns, end_ns]
    gaps = [Gap(later - earlier, earlier, later) for earlier, later in pairwise(edges)]
    longest = max(gaps, key=lambda gap: gap.length_ns)
    return Gap(longest.length_ns, longest.from_ns, None) if longest is gaps[-1] else longest


def _longest_unanswered(sent_ns: Sequence[int], answered: Sequence[int], mark_seq: int) -> int:
    """The same silence by the clock of the sender: not deceived by echoes that were merely read late."""
    last_seq = len(sent_ns) - 1
    edges = [mark_seq, *answered, last_seq]
    return max((sent_ns[b] - sent_ns[a] for a, b in pairwise(edges) if b - a > 1), default=0)


def _int(row: Mapping[str, object], key: str) -> int:
    value = row[key]
    if not isinstance(value, int):
        raise TypeError(f"{key} is not a number in {dict(row)}")
    return value
