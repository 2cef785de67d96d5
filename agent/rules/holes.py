# SPDX-License-Identifier: GPL-2.0-or-later
"""What another program did to our tables that lets through what the policy forbids. It is closed at once, by
a stop-gap of constant size, before the agent reads what is left of the tables. Pure.

Not here: a rule that was added to the policy's own chains, or taken from them. Such an edit may be harmless,
and to close everything for it would be worse than to repair it a little later.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from agent.core.roles import RuleSet
from agent.rules.objects import FAMILY, GATE_TABLE, TABLE
from agent.rules.source_check import CHECK, RAW_IN, SOURCES


class Hole(Enum):
    """What is to be closed, TABLE first."""

    TABLE = "both, if the table is gone"
    FORWARD = "what is forwarded"
    INPUT = "what is for the firewall itself"


class Deed(Enum):
    REMOVED = "was removed"
    EMPTIED = "has lost rules"
    OPENED = "accepts by default"
    DORMANT = "was made dormant"
    OTHER = "was changed"


@dataclass(frozen=True, slots=True)
class TableChange:
    """By another program. `chain` is None when it is about the table as a whole; `table` is None as well for
    more changes than the kernel could report."""

    table: str | None
    chain: str | None
    deed: Deed

    def __str__(self) -> str:
        if self.chain is None:
            return f"table {FAMILY} {self.table}"
        return f"chain {self.chain} of table {FAMILY} {self.table}"


UNKNOWN = TableChange(None, None, Deed.OTHER)
_BOTH = frozenset({Hole.FORWARD, Hole.INPUT})
_POLICIES = {"forward": frozenset({Hole.FORWARD}), "input": frozenset({Hole.INPUT})}
"""The base chains that drop what no rule accepts: without rules they are closed."""
_CHECKS = {SOURCES: frozenset({Hole.FORWARD}), RAW_IN: _BOTH, CHECK: _BOTH}
"""What they do not drop passes on."""


def holes(change: TableChange, rules: RuleSet) -> frozenset[Hole]:
    """What `change` may have opened of tables that are in the role of `rules`."""
    if change.table == GATE_TABLE:
        # a primary's gate is open; a backup has nothing to lose by being closed twice
        return _BOTH if rules is RuleSet.BACKUP else frozenset()
    if change.table is None or (change.chain is None and change.deed is Deed.REMOVED):
        return frozenset({Hole.TABLE})
    if change.chain is None:
        return _BOTH if change.deed is Deed.DORMANT else frozenset()
    match change.deed:
        case Deed.REMOVED:
            return (_POLICIES | _CHECKS).get(change.chain, frozenset())
        case Deed.OPENED:
            return _POLICIES.get(change.chain, frozenset())
        case Deed.EMPTIED:
            return _CHECKS.get(change.chain, frozenset())
    return frozenset()


def sentence(changes: Collection[tuple[TableChange, frozenset[Hole]]], closed: frozenset[Hole]) -> str:
    """What was done, with the holes of each, and what is closed for it."""
    if Hole.TABLE in closed:
        what = f"table {FAMILY} {TABLE} is gone"
    else:
        named = sorted(f"{change} {change.deed.value}" for change, opened in changes if opened & closed)
        what = f"{', '.join(named)} (by another program)"
    effects = (
        ("nothing is forwarded", {Hole.TABLE, Hole.FORWARD}),
        ("only management and the other node come in", {Hole.TABLE, Hole.INPUT}),
    )
    return f"{what}; until the rules are back {' and '.join(text for text, of in effects if of & closed)}"
