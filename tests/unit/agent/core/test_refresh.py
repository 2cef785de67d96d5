# SPDX-License-Identifier: GPL-2.0-or-later
"""No copy of a living state runs out, and the cost stays within its share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.plan import Settings, refresh_after_s
from agent.core.refresh import (
    CONNECTION_COST_S,
    CONNECTIONS_AFTER_S,
    LIST_COST_S,
    LITTLE_LEFT_S,
    ROUND_S,
    SHARE,
    TOUCH_COST_S,
    Round,
    Slice,
)


def test_the_period_stays_inside_the_shortest_timeout_and_its_share_of_a_processor() -> None:
    assert refresh_after_s(Settings(), 0, 0) == 5.0
    assert refresh_after_s(Settings(refresh_s=4.0), 10**6, 10**6) == 4.0
    many, touched = 10**6, 10**5
    cost_s = many * LIST_COST_S + touched * TOUCH_COST_S
    assert cost_s / refresh_after_s(Settings(), many, touched) == pytest.approx(SHARE)


def test_a_million_connections_leave_datagrams_a_period_below_their_shortest_timeout() -> None:
    assert refresh_after_s(Settings(), 10**6, 0) < Settings().shortest_timeout_s


@pytest.mark.parametrize("listed_s", [None, 100.0 - ROUND_S])
def test_all_were_sent_just_before_the_first(listed_s: float | None) -> None:
    """Of this stay in the role."""
    first, part = Round(0.5, listed_s).next(100.0, 10)
    assert part is None
    assert first.next(100.0 + CONNECTIONS_AFTER_S / 2, 10) == (first, None)
    assert first.next(100.0 + 60.0, 10)[1] == Slice(0.5, 60.0 / ROUND_S, ROUND_S + 2 * 60.0)
    assert first.next(100.0 + CONNECTIONS_AFTER_S, 10)[1] == Slice(0.5, CONNECTIONS_AFTER_S / ROUND_S)


@given(
    gaps=st.lists(st.floats(1.0, 30.0), min_size=1, max_size=300),
    states=st.integers(0, 500_000),
    place=st.floats(0.0, 0.999),
)
def test_every_connection_has_its_turn_before_a_copy_with_much_time_left_ends(
    gaps: list[float], states: int, place: float
) -> None:
    """What a pass takes for much time is enough until the next turn. A larger table has fewer passes."""
    round_, _ = Round().next(0.0, states)
    now_s, ends_s = 0.0, LITTLE_LEFT_S
    for gap in gaps:
        now_s += gap
        round_, part = round_.next(now_s, states)
        if part is not None and (place - part.begin) % 1.0 < part.width:
            ends_s = now_s + part.little_left_s
        assert now_s < ends_s


def test_a_list_of_all_connections_takes_no_more_than_its_share() -> None:
    states = 10**6
    begun, _ = Round().next(0.0, states)
    least_s = states * CONNECTION_COST_S / SHARE
    assert least_s > CONNECTIONS_AFTER_S
    assert begun.next(least_s * 0.99, states)[1] is None
    assert begun.next(least_s * 1.01, states)[1] is not None
