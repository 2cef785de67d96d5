# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that somebody works on: it is to be primary only where there is no other, or not at all. Pure."""

from dataclasses import dataclass

MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Maintenance:
    """`since`: when it began, in UTC, as in the records. `never`: this node is not primary even where there
    is no other."""

    since: str
    reason: str = ""
    never: bool = False

    def describe(self) -> str:
        """After "in maintenance"."""
        words = "never primary" if self.never else "primary only if there is no other"
        return f"since {self.since} ({words})" + (f": {self.reason}" if self.reason else "")


def is_reason(text: str) -> bool:
    """It is printed, and recorded."""
    return len(text) <= MAX_REASON and text.isprintable()
