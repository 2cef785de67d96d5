# SPDX-License-Identifier: GPL-2.0-or-later
"""What two lists of states say of what is missing."""

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
    ("primary", "now", "missing"),
    [({1, 2}, {1, 2}, set()), ({1, 2}, {2}, {1}), ({2}, {1, 2}, set()), (set(), {1}, set())],
    ids=["equal", "missing", "only here", "an empty list"],
)
def test_what_is_missing(primary: set[int], now: set[int], missing: set[int]) -> None:
    assert compare(pack_hashes(primary), now) == (missing, [*(now - primary)])
