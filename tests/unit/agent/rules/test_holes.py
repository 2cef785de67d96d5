# SPDX-License-Identifier: GPL-2.0-or-later
"""What opens our tables, and how it is reported. What nft and the kernel make of it is in tests/netns."""

import pytest

from agent.core.roles import RuleSet
from agent.rules.holes import UNKNOWN, Deed, Hole, TableChange, holes, sentence

BOTH = frozenset({Hole.FORWARD, Hole.INPUT})
TABLE, FORWARD, NONE = frozenset({Hole.TABLE}), frozenset({Hole.FORWARD}), frozenset[Hole]()
GATE = TableChange("hafw-gate", "closed", Deed.EMPTIED)


@pytest.mark.parametrize(
    ("change", "primary", "backup"),
    [
        (UNKNOWN, TABLE, TABLE),
        (TableChange("hafw", None, Deed.REMOVED), TABLE, TABLE),
        (TableChange("hafw", None, Deed.OTHER), NONE, NONE),
        (TableChange("hafw", "sources", Deed.EMPTIED), FORWARD, FORWARD),
        (TableChange("hafw", "sources", Deed.REMOVED), FORWARD, FORWARD),
        (TableChange("hafw", "source-check", Deed.EMPTIED), BOTH, BOTH),
        (TableChange("hafw", "raw-in", Deed.REMOVED), BOTH, BOTH),
        # the two that are accepted by everybody, and a chain that leads to nothing
        (TableChange("hafw", "output", Deed.OPENED), NONE, NONE),
        (TableChange("hafw", "from/eth0/to/eth1", Deed.REMOVED), NONE, NONE),
        (TableChange("hafw", "forward", Deed.EMPTIED), NONE, NONE),
        (GATE, NONE, BOTH),
    ],
)
def test_what_opens(change: TableChange, primary: frozenset[Hole], backup: frozenset[Hole]) -> None:
    assert holes(change, RuleSet.PRIMARY) == primary
    assert holes(change, RuleSet.BACKUP) == backup


def test_only_what_is_closed_is_reported() -> None:
    spoofed = TableChange("hafw", "sources", Deed.EMPTIED)
    text = sentence(((spoofed, FORWARD), (UNKNOWN, TABLE)), FORWARD)
    assert text == (
        "chain sources of table inet hafw has lost rules (by another program);"
        " until the rules are back nothing is forwarded"
    )
    assert sentence(((GATE, BOTH), (UNKNOWN, TABLE)), TABLE).startswith("table inet hafw is gone; until")
