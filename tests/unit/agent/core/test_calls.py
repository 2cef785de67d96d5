# SPDX-License-Identifier: GPL-2.0-or-later
"""A question in parts: what is put together, and what is skipped."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.calls import PART_BYTES, Ask, Collector, split

LONG = bytes(range(256)) * (2 * PART_BYTES // 256) + b"the end"


def test_a_question_comes_in_parts_and_each_path_brings_each_of_them() -> None:
    collector = Collector()
    first, second, last, end = split("a", LONG)
    found = [collector.take(one) for one in (first, first, second, first, second, last, last, end, first)]
    assert [one for one in found if one is not None] == [LONG]
    assert collector.taken == 3


def test_an_empty_question_is_one() -> None:
    only, end = split("a", b"")
    assert Collector().take(end) is None
    assert Collector().take(only) == b""


def test_what_began_before_this_node_listened_is_skipped() -> None:
    _, second, last, _ = split("a", LONG)
    collector = Collector()
    assert collector.take(second) is None
    assert collector.take(last) is None
    assert (collector.call, collector.taken) == ("", 0)


def test_a_new_question_takes_the_place_of_one_that_ended_in_the_middle() -> None:
    collector = Collector()
    collector.take(split("a", LONG)[0])
    assert collector.take(split("b", b"short")[0]) == b"short"
    assert collector.take(split("a", LONG)[1]) is None


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 9))
def test_no_order_of_parts_makes_another_question(order: list[int], parts: int) -> None:
    collector = Collector()
    found = [collector.take(Ask("a", part, parts, bytes([part]))) for part in order]
    assert set(found) - {None} <= {bytes(range(parts))}
