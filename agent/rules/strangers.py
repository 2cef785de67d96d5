# SPDX-License-Identifier: GPL-2.0-or-later
"""Words for those who send VRRP, BFD or replication and are not the other node. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.rules.gate import AH, VRRP
from agent.rules.peer import MAX_STRANGERS, STRANGER_KEPT_S

MAX_NAMED = 3
_NAMES = {VRRP: "VRRP", AH: "VRRP inside AH"}


@dataclass(frozen=True, slots=True, order=True)
class Stranger:
    interface: str
    address: str
    protocol: int


def words(found: Sequence[Stranger]) -> str:
    """Who they are, or that there are none any more."""
    if not found:
        return f"for {STRANGER_KEPT_S} s nobody but the other node has sent VRRP, BFD or replication"
    named = ", ".join(_who(one) for one in found[:MAX_NAMED])
    more = len(found) - MAX_NAMED
    if more > 0:
        least = "at least " if len(found) >= MAX_STRANGERS else ""
        named += f" and {least}{more} more"
    return f"not from the other node, and dropped: {named}; find out who that is"


def _who(one: Stranger) -> str:
    return f"{_NAMES.get(one.protocol, 'BFD or replication')} from {one.address} on {one.interface}"
