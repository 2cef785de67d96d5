# SPDX-License-Identifier: GPL-2.0-or-later
"""When the conntrack table counts as filling and as full, and when no longer."""

import pytest

from agent.core.conditions import Condition
from agent.core.table_room import Room, judge_room

F, U = Condition.TABLE_FILLING, Condition.TABLE_FULL


def follow(*rooms: Room) -> list[set[Condition]]:
    """The problems after each look."""
    problems: frozenset[Condition] = frozenset()
    seen, before = [], rooms[0]
    for room in rooms:
        findings = judge_room(before, room, problems)
        assert [condition for condition, _, _ in findings] == [F, U]
        problems = frozenset(condition for condition, ok, _ in findings if not ok)
        seen.append(set(problems))
        before = room
    return seen


def test_it_fills_and_empties_without_going_to_and_fro() -> None:
    shares = (79, 80, 79, 76, 74, 76, 80)
    assert follow(*(Room(share * 10, 1000) for share in shares)) == [set(), {F}, {F}, {F}, set(), set(), {F}]


def test_full_is_full_until_there_is_room() -> None:
    states = (900, 1000, 990, 951, 949, 999, 1003)
    assert follow(*(Room(count, 1000) for count in states)) == [
        {F},
        {F, U},
        {F, U},
        {F, U},
        {F},
        {F},
        {F, U},
    ]


@pytest.mark.parametrize("counted", [{"refused": 3}, {"evicted": 3}])
def test_a_table_that_was_full_between_two_looks(counted: dict[str, int]) -> None:
    assert follow(Room(900, 1000), Room(900, 1000, **counted), Room(900, 1000, **counted)) == [
        {F},
        {F, U},
        {F},
    ]


def test_the_kernels_counters_grow_for_other_reasons_too() -> None:
    """A packet that lost a race counts as dropped, with all the room in the world."""
    assert follow(Room(10, 1000), Room(10, 1000, 50, 50)) == [set(), set()]


def test_what_was_counted_before_the_first_look_is_no_news() -> None:
    assert follow(Room(900, 1000, 7, 7), Room(900, 1000, 7, 7)) == [{F}, {F}]


def test_no_limit_is_never_full() -> None:
    assert follow(Room(5_000_000, 0), Room(6_000_000, 0)) == [set(), set()]


def test_the_words_have_the_numbers_and_what_to_do() -> None:
    (_, _, filling), (_, _, full) = judge_room(Room(900, 1000), Room(1000, 1000, 4, 2), frozenset())
    assert "1000 states of 1000 (100%)" in filling
    assert "nf_conntrack_max" in filling
    assert "4 packets refused and 2 states given up" in full
