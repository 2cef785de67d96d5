# SPDX-License-Identifier: GPL-2.0-or-later
"""Who answers for the virtual addresses on the links, as far as this node can see by itself. Pure.

Only the primary may answer for them: an answer from another link-layer address is a second primary, or a
stranger with an address of the pair. A node that is not primary expects an answer from another host; without
one, no node forwards.

A primary also advertises itself, and one that hears the other node do so for longer than a handover takes
has a second one beside it, also where the two share IPv6 addresses only (the kernel refuses an answer for an
IPv6 address that is its own).

Not seen here: a second primary behind a cut in the network that separates the two.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil

from agent.core.conditions import Condition, Finding
from agent.core.roles import Role
from agent.model.pair import IPAddress

ROUND_S = 2.0
"""How often the links are asked."""
SETTLED_S = 1.0
"""What an answer may be older than a role: a node that hands over still answered a moment ago."""
MASTER_DOWN_ADVERTS = 3.0 + 1.0
"""keepalived waits for three advertisements and its skew before it takes over."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who answers for a virtual address on an interface. `by`, `peer`: the link-layer address that answered
    for it (None: nobody), and the one that answers for the peer's own address there."""

    interface: str
    address: IPAddress
    by: str | None
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Advertised:
    """The interfaces by which the other node's advertisements came lately, and for how many rounds in a row
    there were some."""

    interfaces: tuple[str, ...] = ()
    rounds: int = 0

    def and_then(self, interfaces: Collection[str]) -> "Advertised":
        return Advertised(tuple(sorted(interfaces)), self.rounds + 1 if interfaces else 0)

    def beside(self, role_s: float, remembered_s: float) -> tuple[str, ...]:
        """Those of a second primary. A single advertisement, which is `remembered_s`, is none: the last one
        before a handover, or the first one after a cut."""
        lasting = role_s > remembered_s and self.rounds > 1 + remembered_s / ROUND_S
        return self.interfaces if lasting else ()


def judge_primaries(
    role: Role, role_s: float, holders: tuple[Holder, ...], peer: str, advertised: tuple[str, ...] = ()
) -> Finding | None:
    """`advertised`: by which interfaces the peer advertises itself beside this node. None when it cannot be
    said: no question, or a role that is too new."""
    if role is not Role.PRIMARY:
        return Condition.TWO_PRIMARIES, True, "this node is not primary"
    if role_s < SETTLED_S:
        return None
    others = [_words(holder, peer) for holder in holders if holder.by is not None]
    others += [f"{peer} advertises itself on {', '.join(advertised)}"] if advertised else []
    if not others:
        return Condition.TWO_PRIMARIES, True, "no other host answers for the virtual addresses"
    whose = "; ".join(others)
    text = f"this node is primary, and on the same links {whose}"
    return Condition.TWO_PRIMARIES, False, text


def _words(holder: Holder, peer: str) -> str:
    who = f"{peer} ({holder.by})" if holder.by == holder.peer else f"another host ({holder.by})"
    return f"{who} answers for {holder.address} on {holder.interface}"


def rounds_without_primary(role: Role, holders: tuple[Holder, ...], before: int) -> int | None:
    """How many rounds in a row had no answer; None when no request could be sent."""
    if role is Role.PRIMARY or any(holder.by is not None for holder in holders):
        return 0
    return before + 1 if holders else None


def judge_no_primary(rounds: int, advert_interval_ms: int, holders: tuple[Holder, ...]) -> Finding | None:
    """None while a takeover may still be on its way."""
    if not rounds:
        return Condition.NO_PRIMARY, True, "a host answers for the virtual addresses"
    takeover_s = MASTER_DOWN_ADVERTS * advert_interval_ms / 1000
    if rounds < 2 + ceil(takeover_s / ROUND_S):
        return None
    asked = ", ".join(f"{holder.address} ({holder.interface})" for holder in holders)
    text = f"there is no primary: no host answers for {asked}, and this node is not primary either"
    return Condition.NO_PRIMARY, False, text
