"""Whether keepalived listens for the other node's advertisements on every link of the pair. Pure.

When an interface is renamed, keepalived (2.2.7) closes the sockets of its instance, and does not open them
again when the name is back. The instance is BACKUP for ever, hears nobody, and keeps its whole group from
becoming MASTER; neither the log nor the bus shows it. The kernel does: nobody on this node has joined VRRP's
multicast group on that interface any more.

A group is missed where it was joined before, or where it is joined on another interface of the pair: with
unicast, or with one instance for both families, it is joined nowhere, and nothing is wrong.
"""

from dataclasses import dataclass

from agent.core.conditions import Condition
from agent.core.links import Finding, Link, find_fault
from agent.core.roles import Role
from agent.pair import Pair

Group = tuple[str, int]
"""An interface, and 4 or 6 for VRRP's group of that family, joined there."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What is remembered from look to look: what was `ever` joined by this keepalived, and what was missed
    at the last look. A reload of keepalived opens its sockets anew, which takes a moment."""

    ever: frozenset[Group] = frozenset()
    missed: frozenset[Group] = frozenset()


def judge_groups(
    pair: Pair, role: Role, links: tuple[Link, ...], joined: frozenset[Group], before: Joined
) -> tuple[Joined, Finding]:
    """Told at the second look in a row that misses one."""
    if role not in (Role.PRIMARY, Role.BACKUP):
        # a fault comes and goes with the link; a keepalived that has ended has left all its groups
        return Joined(before.ever if role is Role.FAULT else frozenset()), _WELL
    wanted = {
        (interface.name, vip.version)
        for interface in pair.data_interfaces
        for vip in interface.vips
        if find_fault(interface.name, links) is None
    }
    families = {version for name, version in joined if (name, version) in wanted}
    ever = before.ever | (joined & wanted)
    missed = frozenset(one for one in wanted - joined if one in ever or one[1] in families)
    told = sorted({name for name, _ in missed & before.missed})
    return Joined(ever, missed), _say(told) if told else _WELL


_WELL: Finding = (Condition.DEAF, True, "keepalived listens on every link of the pair")


def _say(names: list[str]) -> Finding:
    text = (
        f"keepalived no longer listens on {', '.join(names)} and cannot take over (renamed or made anew?):"
        " systemctl restart keepalived"
    )
    return Condition.DEAF, False, text
