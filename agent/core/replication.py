# SPDX-License-Identifier: GPL-2.0-or-later
"""What conntrackd could not do with the peer's messages, by its own counters. Pure.

The counters only grow. That they do not change says nothing of what they counted before: states that were
lost are still missing. So a growth begins the condition, and a catch-up during which nothing is lost ends
it: by then all of the peer's states have come in again.

A primary needs none of the peer's messages: the node whose states are served has the newest.
"""

from dataclasses import dataclass

from agent.core.conditions import Condition, Finding
from agent.core.roles import Role


@dataclass(frozen=True, slots=True)
class Losses:
    """`refused`: states that did not go into the kernel; `lost`: messages that did not come; `unread`:
    messages that could not be read."""

    refused: int = 0
    lost: int = 0
    unread: int = 0

    def since(self, before: "Losses") -> "Losses":
        """conntrackd counts from 0 when it is started again, and then has lost what it counts now."""
        if self.refused < before.refused or self.lost < before.lost or self.unread < before.unread:
            return self
        return Losses(self.refused - before.refused, self.lost - before.lost, self.unread - before.unread)

    def __bool__(self) -> bool:
        return bool(self.refused or self.lost or self.unread)


def judge_losses(role: Role, losses: Losses) -> Finding | None:
    """`losses`: since the last look. None when nothing was lost, or nothing that counts."""
    if role is Role.PRIMARY or not losses:
        return None
    return Condition.REPLICATION, False, f"{losses_text(losses)}; all states are requested again"


def losses_text(losses: Losses) -> str:
    """What happened, and a cause only where one follows from it."""
    parts = []
    if losses.refused:
        parts.append(
            f"the kernel refused {losses.refused} of the peer's states "
            "(is there room in its table for the peer's and its own?)"
        )
    if losses.lost:
        parts.append(f"{losses.lost} of the peer's messages were lost on the way")
    if losses.unread:
        parts.append(
            f"{losses.unread} of the peer's messages could not be read "
            "(do both nodes have the same version of conntrackd?)"
        )
    return "; ".join(parts)
