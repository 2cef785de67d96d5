# SPDX-License-Identifier: GPL-2.0-or-later
"""Who we are on the pair, in our words. keepalived's words (MASTER, BACKUP, FAULT) stay in its adapter."""

from enum import Enum


class Role(Enum):
    UNKNOWN = "unknown"
    """Nothing has been read yet."""
    BACKUP = "backup"
    PRIMARY = "primary"
    FAULT = "fault"
    """keepalived is there and cannot take part (an interface is down, a check failed)."""
    STOPPED = "stopped"
    """keepalived is not there."""


class RuleSet(Enum):
    """Which of the two rule sets is in force. They differ only in what closes the gate."""

    PRIMARY = "primary"
    BACKUP = "backup"


class Standing(Enum):
    """In keepalived's election."""

    TAKES_PART = "takes part"
    """As the pair file says."""
    GIVES_UP = "gives up"
    """It may not have the addresses."""
    STANDS_BACK = "stands back"
    """It gets them only where the peer does not run."""


def rule_set_for(role: Role) -> RuleSet:
    """Every role but primary keeps the gate closed."""
    return RuleSet.PRIMARY if role is Role.PRIMARY else RuleSet.BACKUP
