# SPDX-License-Identifier: GPL-2.0-or-later
"""What opens our tables, and how it is reported. What nft and the kernel make of it is in tests/netns."""

import pytest

from agent.core.roles import RuleSet
from agent.rules.holes import UNKNOWN, Change, Deed, Hole, holes, sentence

BOTH = frozenset({Hole.FORWARD, Hole.INPUT})
TABLE, FORWARD, NONE = frozenset({Hole.TABLE}), frozenset({Hole.FORWARD}), frozenset[Hole]()
GATE = Change("hafw-gate", "closed", Deed.EMPTIED)


@pytest.mark.parametrize(
    ("change", "primary", "backup"),
    [
        (UNKNOWN, TABLE, TABLE),
        (Change("hafw", None, Deed.REMOVED), TABLE, TABLE),
        (Change("hafw", None, Deed.OTHER), NONE, NONE),
        (Change("hafw", "sources", Deed.EMPTIED), FORWARD, FORWARD),
        (Change("hafw", "sources", Deed.REMOVED), FORWARD, FORWARD),
        (Change("hafw", "source-check", Deed.EMPTIED), BOTH, BOTH),
        (Change("hafw", "raw-in", Deed.REMOVED), BOTH, BOTH),
        # the two that are accepted by everybody, and a chain that leads to nothing
        (Change("hafw", "output", Deed.OPENED), NONE, NONE),
        (Change("hafw", "from/eth0/to/eth1", Deed.REMOVED), NONE, NONE),
        (Change("hafw", "forward", Deed.EMPTIED), NONE, NONE),
        (GATE, NONE, BOTH),
    ],
)
def test_what_opens(change: Change, primary: frozenset[Hole], backup: frozenset[Hole]) -> None:
    assert holes(change, RuleSet.PRIMARY) == primary
    assert holes(change, RuleSet.BACKUP) == backup


def test_only_what_is_closed_is_told() -> None:
    spoofed = Change("hafw", "sources", Deed.EMPTIED)
    text = sentence(((spoofed, FORWARD), (UNKNOWN, TABLE)), FORWARD)
    assert text == (
        "chain sources of table inet hafw has lost rules (by another program);"
        " until the rules are back nothing is forwarded"
    )
    assert sentence(((GATE, BOTH), (UNKNOWN, TABLE)), TABLE).startswith("table inet hafw is gone; until")
