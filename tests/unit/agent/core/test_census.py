# SPDX-License-Identifier: GPL-2.0-or-later
"""What three lists of states say of what is missing and what has ended."""

import random

import pytest

from agent.core.census import HASH_BYTES, Census, compare, pack_hashes, unpack_hashes


def test_packed_hashes_are_the_same_on_every_machine() -> None:
    assert pack_hashes([1, 1 << 63]) == bytes((1, *[0] * 14, 0x80))
    assert list(unpack_hashes(pack_hashes([3, 1, 2]))) == [3, 1, 2]
    assert Census(hashes=pack_hashes(range(10))).total == 10


@pytest.mark.parametrize("size", [1, HASH_BYTES + 1])
def test_a_torn_list_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        unpack_hashes(bytes(size))


@pytest.mark.parametrize(
    ("before", "primary", "now", "missing", "ended"),
    [
        ({1, 2}, {1, 2}, {1, 2}, set(), set()),
        (set(), {1, 2}, {2}, {1}, set()),
        ({1, 2}, {2}, {1, 2}, set(), {1}),
        (set(), {2}, {1, 2}, set(), set()),
        ({1}, {2}, {2}, set(), set()),
        (set(), set(), set(), set(), set()),
    ],
    ids=["equal", "missing", "ended while away", "new since", "ended by itself", "empty"],
)
def test_what_differs(
    before: set[int], primary: set[int], now: set[int], missing: set[int], ended: set[int]
) -> None:
    assert compare(pack_hashes(before), pack_hashes(primary), now) == (missing, ended)


def test_churn_is_never_taken_for_the_end_of_a_state_that_lives() -> None:
    """States are made and end on both nodes all the time, a little later on the backup; some were missed."""
    chance = random.Random(1)
    living = set(range(1000))
    fresh = iter(range(1000, 10_000))

    def churn() -> None:
        for one in chance.sample(sorted(living), 50):
            living.discard(one)
        living.update(next(fresh) for _ in range(50))

    stale, lost = set(range(20_000, 20_020)), set(chance.sample(sorted(living), 30))
    replica = (living | stale) - lost
    before = pack_hashes(replica)
    churn()
    primary = pack_hashes(living)
    churn()
    replica = (living | stale) - lost
    missing, ended = compare(before, primary, replica)
    assert ended == stale
    assert lost & living <= missing
    assert missing - lost <= set(unpack_hashes(primary)) - living, "all else has ended meanwhile"
