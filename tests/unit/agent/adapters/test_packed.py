# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a listing says what it was, when the next one differs."""

from agent.adapters.packed import Packed
from agent.rules.diff import changes, lines_of
from agent.rules.listing import Listing, changed_parts, listing_of
from agent.rules.nft_parse import Entry
from agent.rules.objects import TABLE

PREFIX = {"prefix": {"addr": "10.1.0.0", "len": 16}}


def listed(*elements: object) -> Listing:
    place = {"family": "inet", "table": TABLE}
    entries: list[Entry] = [
        ("table", {"family": "inet", "name": TABLE}),
        ("set", {**place, "name": "s", "type": "ipv4_addr", "elem": list(elements)}),
        ("set", {**place, "name": "limit/x", "type": "ipv4_addr", "elem": ["10.0.0.9"]}),
        ("chain", {**place, "name": "\u00e4"}),
        ("rule", {**place, "chain": "\u00e4", "expr": [{"drop": None}]}),
        ("rule", {**place, "chain": "\u00e4", "expr": [{"unheard": 1}]}),
    ]
    return listing_of(entries, {"limit/x"})


def test_it_has_all_that_lasts() -> None:
    listing = listed("10.0.0.1", PREFIX)
    packed = Packed(listing)
    assert packed.fingerprint == listing.fingerprint
    assert len(listing.fingerprint.parts) == 4
    for part in listing.fingerprint.parts:
        assert list(packed.objects([part])) == list(listing.objects([part])) != []
    assert list(packed.objects(["set gone"])) == []


def test_a_difference_is_said_of_its_part_alone() -> None:
    packed, later = Packed(listed("10.0.0.1", PREFIX)), listed("10.0.0.1")
    parts = changed_parts(packed.fingerprint, later.fingerprint)
    found = changes(lines_of(packed.objects(parts)), lines_of(later.objects(parts)))
    assert [(one.part, one.added, one.text) for one in found] == [("set s", False, "10.1.0.0/16")]
