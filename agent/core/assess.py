# SPDX-License-Identifier: GPL-2.0-or-later
"""From facts to a role: the one place that says who we are.

An address attracts packets, a word does not; so a primary has virtual addresses, and a keepalived that keeps
them. A node with all of the pair's addresses is primary at once, without asking: the first packets are there
already. An administrator may have added some of them by hand, or a keepalived that lacks an instance may
have left them; then keepalived's own answer decides, and so it does when it was asked after the addresses
came and says of every instance that it is not master. Its D-Bus state and its last notice tell the other
roles apart.
"""

from dataclasses import dataclass
from enum import Enum

from agent.core.conditions import Condition, Finding
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
    """What is true now. `wanted`, `held` and `orphaned` are virtual addresses, as text with their interface.

    `orphaned`: left behind by a keepalived that died. `bus` is empty when keepalived is not on the bus or
    does not answer; `settled`: every instance was asked after the addresses had last changed, and answered.
    `word` is the newest state in a notice of the hook. `served`: this node was primary at the last look.
    """

    alive: bool
    held: frozenset[str] = frozenset()
    orphaned: frozenset[str] = frozenset()
    bus: frozenset[VrrpState] = frozenset()
    word: VrrpState | None = None
    wanted: frozenset[str] = frozenset()
    settled: bool = False
    served: bool = False

    @property
    def kept(self) -> frozenset[str]:
        return self.held - self.orphaned

    @property
    def missing(self) -> frozenset[str]:
        return self.wanted - self.kept

    @property
    def contested(self) -> bool:
        """All addresses are here, and keepalived's newest answers, which may be from before they came, do
        not say that it is master."""
        return (
            self.alive and bool(self.kept) and not self.missing and bool(self.bus) and not says_master(self)
        )


def says_master(facts: Facts) -> bool:
    """By its own answer where it gives one; a notice of the hook may be lost, and then the one before it
    stays forever."""
    if facts.bus:
        return VrrpState.MASTER in facts.bus
    return facts.word is VrrpState.MASTER


def serves(facts: Facts) -> bool:
    """The addresses prove the role, and no answer of keepalived contradicts them."""
    return assess(facts) is Role.PRIMARY and not facts.missing and facts.bus <= {VrrpState.MASTER}


def assess(facts: Facts) -> Role:
    if not facts.alive:
        return Role.STOPPED
    if facts.kept and _keeps_them(facts):
        return Role.PRIMARY
    if facts.bus:
        return Role.FAULT if VrrpState.FAULT in facts.bus else Role.BACKUP
    return Role.FAULT if facts.word is VrrpState.FAULT else Role.BACKUP


def _keeps_them(facts: Facts) -> bool:
    if says_master(facts):
        return True
    if facts.missing:
        # a primary is not closed for one address while nothing says that it is no primary
        return facts.served and not facts.bus and facts.word is None
    return not (facts.bus and facts.settled)


def contradictions(facts: Facts) -> tuple[Finding, ...]:
    """Conditions that the facts show. Meant for facts that have had time to settle: in the middle of a
    transition keepalived's own view and the kernel differ for a moment."""
    return (_find_keepalived(facts), _find_orphans(facts), _find_split(facts), _find_missing(facts))


def _find_keepalived(facts: Facts) -> Finding:
    dead = "keepalived is not running; this node cannot be primary"
    return Condition.KEEPALIVED, facts.alive, "keepalived is running" if facts.alive else dead


def _find_orphans(facts: Facts) -> Finding:
    if not facts.orphaned:
        return Condition.ORPHANED_ADDRESS, True, "no orphaned virtual address is left"
    names = _listed(facts.orphaned)
    text = f"{names} stayed on this node when keepalived died; remove it or start keepalived"
    return Condition.ORPHANED_ADDRESS, False, text


def _find_split(facts: Facts) -> Finding:
    said = "/".join(sorted(state.name for state in facts.bus))
    if facts.bus and VrrpState.MASTER in facts.bus and not facts.kept:
        text = f"keepalived says {said} on the bus, but no virtual address is on this node"
    elif facts.kept and facts.alive and not _agreed(facts):
        who = (
            f"keepalived says {said} on the bus" if facts.bus else "keepalived did not say that it is master"
        )
        gate = "open, as all are here" if assess(facts) is Role.PRIMARY else "closed: remove it"
        text = f"{who}, but {_listed(facts.kept)} is on this node; the gate stays {gate}"
    else:
        return Condition.CONTRADICTION, True, "keepalived and the kernel agree"
    return Condition.CONTRADICTION, False, text


def _agreed(facts: Facts) -> bool:
    return assess(facts) is Role.PRIMARY and (not facts.bus or says_master(facts))


def _find_missing(facts: Facts) -> Finding:
    if assess(facts) is not Role.PRIMARY or not facts.missing:
        return Condition.ADDRESSES, True, "this node has all virtual addresses that its role needs"
    text = (
        f"this node is primary without {_listed(facts.missing)}: packets to it are lost; "
        "does keepalived.conf have an instance for it?"
    )
    return Condition.ADDRESSES, False, text


def _listed(addresses: frozenset[str]) -> str:
    return ", ".join(sorted(addresses))
