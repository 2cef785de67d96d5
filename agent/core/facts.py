# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be equal on both nodes, and what each has that its pair file does not want. Pure.

`hafw check --pair` prints it. Each finding is one sentence, with the command that repairs it and the node on
which that is to be typed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PAIR_FILE, RULES = "pair file", "rules"
PACKAGES = {"hafw": "hafw-agent", "keepalived": "keepalived", "conntrackd": "conntrackd", "nft": "nftables"}
REPLACE = "hafw setup --replace conntrackd.conf"
NUMBER = 18
"""So many digits at the most."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """One thing of one node. `what` is its name, `command` repairs it there."""

    what: str
    text: str
    command: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """`equal`: what must be the same on both nodes, by names. `misfits`: what is not as this node's own pair
    file wants it; `more`: how many of these there are beside."""

    equal: Mapping[str, str]
    misfits: tuple[Misfit, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True)
class PairFinding:
    """`node`: where `command` is to be typed."""

    node: str
    what: str
    text: str
    command: str


def compare_facts(
    own: NodeFacts, other: NodeFacts | None, names: tuple[str, str]
) -> tuple[PairFinding, ...]:
    """`names`: of this node and of the other one. Without facts of the other one only this node is judged;
    what only one of them says is not compared."""
    found = list(_own_findings(names[0], own))
    if other is not None:
        found += _own_findings(names[1], other)
        for what in sorted({*own.equal} & {*other.equal}):
            values = own.equal[what], other.equal[what]
            if "" not in values and values[0] != values[1]:
                found.append(_differing(what, values, names))
    return tuple(found)


def _own_findings(node: str, facts: NodeFacts) -> Iterator[PairFinding]:
    for one in facts.misfits:
        yield PairFinding(node, one.what, one.text, one.command)
    if facts.more:
        text = f"{facts.more} more of the kind, which `hafw check --pair` names there"
        yield PairFinding(node, "more", text, "hafw check --pair")


def _differing(what: str, values: tuple[str, str], names: tuple[str, str]) -> PairFinding:
    node, command = _repair(what, values, names)
    text = f"the nodes differ in {what}: {names[0]} has {values[0]}, {names[1]} has {values[1]}"
    return PairFinding(node, what, text, command)


def _repair(what: str, values: tuple[str, str], names: tuple[str, str]) -> tuple[str, str]:
    """The node, and what is to be typed there. Of numbers the larger one is right: a backup has to take all
    that its primary has, for as long as that keeps it."""
    if what in PACKAGES or what == "kernel":
        older = names[0] if _version_of(values[0]) < _version_of(values[1]) else names[1]
        if what == "kernel":
            return older, "apt-get full-upgrade && reboot"
        return older, f"apt-get install {PACKAGES[what]}"
    if what in (PAIR_FILE, RULES):
        return names[0], "hafw rules apply"
    smaller = _is_number(values) and int(values[0]) < int(values[1])
    node, value = (names[0], values[1]) if smaller else (names[1], values[0])
    return node, f"sysctl -w {what}={value}" if what.startswith("net/") else REPLACE


def _is_number(values: tuple[str, str]) -> bool:
    return all(one.isascii() and one.isdigit() and len(one) <= NUMBER for one in values)


def _version_of(text: str) -> tuple[int, ...]:
    """Of what stands before its first other letter."""
    parts = []
    for part in text.replace("-", ".").split("."):
        if not _is_number((part, "0")):
            break
        parts.append(int(part))
    return tuple(parts)
