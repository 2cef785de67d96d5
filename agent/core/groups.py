# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether keepalived listens for the other node's advertisements on every link of the pair. Pure.

When an interface is renamed, keepalived (2.2.7) closes the sockets of its instance, and does not open them
again when the name is back. The instance is BACKUP forever, hears no advertisement, and keeps its
whole group from becoming MASTER; neither the log nor the bus shows it. The kernel does: no process on this
node has joined VRRP's multicast group on that interface any more, and no socket for VRRP is bound to an
address of it, as one for unicast is.

A link is missed where keepalived listened before. Where it has not listened since the agent began, it is
missed if another link of the pair has the group of that family, unless keepalived has interfaces of its own
(use_vmac) and the group there; or if keepalived listens nowhere at all. Otherwise nothing is wrong: one
instance for both families listens for one of them.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from agent.core.conditions import Condition, Finding
from agent.core.links import Link, find_fault
from agent.core.roles import Role
from agent.model.pair import IPAddress, Pair

Group = tuple[str, int]
"""An interface, and 4 or 6 for VRRP's group of that family, joined there."""
NOTHING_LOOKS = 5
"""So many looks in a row have to show that keepalived listens nowhere: it may just have started."""


@dataclass(frozen=True, slots=True)
class Listening:
    """VRRP's groups that are joined, on whatever interface, and the addresses that sockets for VRRP are
    bound to."""

    joined: frozenset[Group] = frozenset()
    bound: frozenset[IPAddress] = frozenset()


@dataclass(frozen=True, slots=True)
class Joined:
    """What is remembered from look to look: where this keepalived `ever` listened, what was missed at the
    last look, and how many looks in a row showed `nothing`. A reload of keepalived opens its sockets again,
    which takes a moment."""

    ever: frozenset[Group] = frozenset()
    missed: frozenset[Group] = frozenset()
    nothing: int = 0


def judge_groups(
    pair: Pair, role: Role, links: tuple[Link, ...], seen: Listening, before: Joined
) -> tuple[Joined, Finding]:
    """Reported at the second look in a row that misses one."""
    if role not in (Role.PRIMARY, Role.BACKUP):
        # a fault comes and goes with the link; a keepalived that has ended has left all its groups
        return Joined(before.ever if role is Role.FAULT else frozenset()), _OK
    wanted = {
        (interface.name, vip.version)
        for interface in pair.data_interfaces
        for vip in interface.vips
        if find_fault(interface.name, links) is None
    }
    heard = seen.joined | _unicast(links, seen.bound)
    nothing = 0 if seen.joined or seen.bound else before.nothing + 1
    ever = before.ever | (heard & wanted)
    expected = wanted if nothing >= NOTHING_LOOKS else ever | _like_others(pair, wanted, seen.joined)
    missed = frozenset(one for one in wanted - heard if one in expected)
    reported = sorted({name for name, _ in missed & before.missed})
    return Joined(ever, missed, nothing), _say(reported) if reported else _OK


def _unicast(links: tuple[Link, ...], bound: frozenset[IPAddress]) -> frozenset[Group]:
    return frozenset(
        (link.name, address.version) for link in links for address in link.addresses if address.ip in bound
    )


def _like_others(pair: Pair, wanted: AbstractSet[Group], joined: frozenset[Group]) -> set[Group]:
    if {name for name, _ in joined} - {interface.name for interface in pair.data_interfaces}:
        return set()
    families = {version for name, version in joined if (name, version) in wanted}
    return {one for one in wanted if one[1] in families}


_OK: Finding = (Condition.DEAF, True, "keepalived listens on every link of the pair")


def _say(names: list[str]) -> Finding:
    text = (
        f"keepalived no longer listens on {', '.join(names)} and cannot take over (renamed or recreated?):"
        " systemctl restart keepalived"
    )
    return Condition.DEAF, False, text
