# SPDX-License-Identifier: GPL-2.0-or-later
"""When a peer's conntrackd counts as silent, and when not."""

from itertools import accumulate

import pytest

from agent.core.conditions import Condition
from agent.core.silence import Silence, hear, judge_silence, unanswered

SECOND = 1_000_000_000


def after(counts: list[int], *, every_s: float = 1.0, link_up: bool = True) -> Silence:
    """One look after the other, each with the bytes that conntrackd had counted by then."""
    silence = Silence()
    for number, count in enumerate(counts):
        silence = hear(silence, count, round((100 + number * every_s) * SECOND), link_up=link_up)
    return silence


def is_well(silence: Silence, states: int = 0) -> bool:
    condition, ok, text = judge_silence(silence, states, "fw-2", "eth2")
    assert condition is Condition.PEER_SILENT
    assert "fw-2" in text
    assert "eth2" in text
    return ok


IDLE = list(accumulate([160] + [16] * 30))
"""An idle pair, as measured: 16 bytes a second."""


def test_an_idle_pair_is_not_silent() -> None:
    assert all(is_well(after(IDLE[:looks])) for looks in range(1, len(IDLE)))


def test_nothing_for_five_seconds_is_silence_and_one_message_ends_it() -> None:
    assert is_well(after([*IDLE, *[IDLE[-1]] * 4]))
    silent = after([*IDLE, *[IDLE[-1]] * 6])
    assert not is_well(silent)
    assert (
        "nothing has come from fw-2's conntrackd over eth2 for 6 s"
        in judge_silence(silent, 0, "fw-2", "eth2")[2]
    )
    assert is_well(hear(silent, IDLE[-1] + 16, silent.looked_ns + SECOND, link_up=True))


def test_a_peer_that_was_never_heard_is_silent() -> None:
    assert not is_well(after([0] * 7))


@pytest.mark.parametrize(("states", "seconds"), [(0, 7), (100_000, 9), (1_000_000, 37)])
def test_a_large_table_keeps_a_peer_busy(states: int, seconds: int) -> None:
    """Its conntrackd says nothing while it reads the kernel's table, a second for 100,000 states."""
    assert is_well(after([7] * (seconds - 2)), states)
    assert not is_well(after([7] * seconds), states)


def test_our_own_conntrackd_was_busy() -> None:
    """It comes to answer before it comes to hear: a long gap between two answers counts for little."""
    assert is_well(after([7, 7, 7], every_s=30.0))


def test_another_conntrackd_counts_from_the_start() -> None:
    silent = after([500] * 5)
    assert hear(silent, 16, silent.looked_ns + SECOND, link_up=True).silent_s == 0
    assert hear(unanswered(silent), 500, silent.looked_ns + SECOND, link_up=True).silent_s == 0


def test_without_a_link_silence_is_no_news() -> None:
    assert is_well(after([7] * 60, link_up=False))
