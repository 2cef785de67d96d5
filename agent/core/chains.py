# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a table of another program drops what our own rules let through. Pure.

nftables asks every base chain of a hook in turn: what one of them drops is gone, whatever ours accept.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from agent.core.conditions import Condition, Finding


class Ends(Enum):
    """What becomes of a packet that matches no condition of a chain."""

    OPEN = "continues"
    ACCEPT = "is accepted"
    POLICY_DROP = "is dropped by the chain's policy"
    RULE_DROP = "is dropped by a rule without a condition"


@dataclass(frozen=True, slots=True)
class BaseChain:
    family: str
    table: str
    name: str
    hook: str
    ends: Ends
    devices: tuple[str, ...] = ()
    """Empty where the hook sees every interface."""


WHOSE = {
    "ingress": "everything",
    "prerouting": "everything",
    "input": "what is sent to this node: VRRP, replication, management",
    "forward": "forwarded packets",
    "postrouting": "forwarded packets",
}
"""What a hook sees; what is not here has nothing of the pair's."""


def judge_chains(chains: Iterable[BaseChain], interfaces: frozenset[str]) -> Finding:
    """`interfaces`: the pair's own."""
    dropping = [_words(chain) for chain in chains if _drops(chain) and _sees(chain, interfaces)]
    if not dropping:
        return Condition.FOREIGN_DROPS, True, "no other program's table drops by default"
    text = f"another program's rules drop what they do not accept themselves: {'; '.join(sorted(dropping))}"
    return Condition.FOREIGN_DROPS, False, text


def _drops(chain: BaseChain) -> bool:
    return chain.ends in (Ends.POLICY_DROP, Ends.RULE_DROP)


def _sees(chain: BaseChain, interfaces: frozenset[str]) -> bool:
    return chain.hook in WHOSE and (not chain.devices or bool(interfaces & set(chain.devices)))


def _words(chain: BaseChain) -> str:
    how = "its policy" if chain.ends is Ends.POLICY_DROP else "a rule without a condition"
    return f"table {chain.family} {chain.table} chain {chain.name} drops {WHOSE[chain.hook]} by {how}"
