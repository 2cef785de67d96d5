"""From facts to a role: the one place that says who we are.

An address attracts packets, a word does not; so the kernel's addresses decide who is primary, as long as a
keepalived is alive that keeps them. Its D-Bus state and its last notice only tell the other roles apart.
"""

from dataclasses import dataclass
from enum import Enum

from agent.core.conditions import Condition
from agent.core.roles import Role


class VrrpState(Enum):
    """keepalived's own words and numbers (vrrp.h)."""

    INIT = 0
    BACKUP = 1
    MASTER = 2
    FAULT = 3
    DELETED = 97
    STOP = 98


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true now. `held` and `orphaned` are virtual addresses, as text with their interface.

    `orphaned`: held since a keepalived died, by nobody. `bus` is empty when keepalived is not on the bus or
    was not asked; `word` is the newest state in a notice of the hook.
    """

    alive: bool
    held: frozenset[str] = frozenset()
    orphaned: frozenset[str] = frozenset()
    bus: frozenset[VrrpState] = frozenset()
    word: VrrpState | None = None


def assess(facts: Facts) -> Role:
    if not facts.alive:
        return Role.STOPPED
    if facts.held - facts.orphaned:
        return Role.PRIMARY
    if facts.bus:
        return Role.FAULT if VrrpState.FAULT in facts.bus else Role.BACKUP
    return Role.FAULT if facts.word is VrrpState.FAULT else Role.BACKUP


def contradictions(facts: Facts) -> tuple[tuple[Condition, bool, str], ...]:
    """Conditions that the facts show: which, whether well, and the words for it. Meant for facts that have
    had time to settle: in the middle of a transition keepalived's own view and the kernel differ for a
    moment."""
    orphans = ", ".join(sorted(facts.orphaned))
    split = bool(facts.bus) and ((VrrpState.MASTER in facts.bus) != bool(facts.held - facts.orphaned))
    said = "/".join(sorted(state.name for state in facts.bus))
    holding = "virtual addresses are on this node" if facts.held else "no virtual address is on this node"
    return (
        (
            Condition.KEEPALIVED,
            facts.alive,
            "keepalived is running"
            if facts.alive
            else "keepalived is not running; this node cannot be primary",
        ),
        (
            Condition.ORPHANED_ADDRESS,
            not facts.orphaned,
            f"{orphans} stayed on this node when keepalived died; remove it or start keepalived"
            if facts.orphaned
            else "no orphaned virtual address is left",
        ),
        (
            Condition.CONTRADICTION,
            not split,
            f"keepalived says {said} on the bus, but {holding}; following the addresses"
            if split
            else "keepalived and the kernel agree",
        ),
    )
