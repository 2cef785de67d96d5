# SPDX-License-Identifier: GPL-2.0-or-later
"""What the two nodes tell each other of themselves, and what follows from it. Pure.

Nothing here decides a role or a gate: a takeover never waits for the peer's word. What the peer says is
compared, and what differs is a condition of this node. A handover is core/handover.py's.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from agent.core.conditions import Condition, Finding
from agent.core.roles import Role

TOLD_S = 0.35
"""How often each node speaks."""
SILENT_S = 1.4
"""Three times not heard, and a little. That and a turn more are less than 2 s, as is what follows from
words that must last 1 s: the first of them, three more, and a turn."""
MAX_CLOCK_S = 2.0
EVERY = "all"


class HandoverStep(Enum):
    """How far a handover is, in the word of one of the nodes."""

    ASKED = "asked"
    """The primary wants to hand over."""
    OPEN = "open"
    """The gate of the backup is open for it."""
    REFUSED = "refused"
    GIVEN = "given"
    """The primary gives up the addresses, or has done so."""


@dataclass(frozen=True, slots=True)
class Handover:
    """`identity`: by which both nodes speak of the same one. `reason`: why it is refused."""

    identity: str
    step: HandoverStep
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node, in its own words. `role_s`: since when it has its role. `problems`: names of conditions, of
    a later version as well. `clock_s`: its wall clock when it spoke. `heard`: by which paths it hears the
    other node. `states`: EVERY of its kernel; by protocol those that are replicated, as the last
    comparison has counted them."""

    role: Role
    role_s: float
    gate_open: bool
    clock_s: float
    ready: bool | None = None
    problems: tuple[str, ...] = ()
    keepalived: tuple[str, ...] = ()
    states: Mapping[str, int] = field(default_factory=dict)
    pair_file: str = ""
    rules: str = ""
    generation: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    heard: tuple[str, ...] = ()
    ceased_s: float | None = None
    """How long ago it last ceased to be primary."""
    served_s: float | None = None
    """For how long it had been primary then."""
    compares: bool = False
    """It can be asked to compare the states."""
    handover: Handover | None = None
    maintenance: str = ""
    """What Maintenance.describe() says of it; empty when it is not in maintenance."""
    sets_lost: bool = False
    """Its table was made again, so that its dynamic sets began empty."""
    sets_differ: str = ""
    """Why the nodes may have other elements in their dynamic sets."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came last by each path, in seconds of the monotonic clock of this node, and the newest status."""

    paths: Mapping[str, float]
    status: NodeStatus | None = None
    at_s: float = 0.0
    since_s: float = 0.0
    """Since when this node listens."""

    @property
    def newest_s(self) -> float:
        return max((self.since_s, *self.paths.values()))

    def is_silent(self, now_s: float) -> bool:
        return now_s - self.newest_s > SILENT_S

    def silent_paths(self) -> tuple[str, ...]:
        """By the newest word of any path: a peer that is dead makes no path dead."""
        newest_s = self.newest_s
        return tuple(
            name for name, at_s in self.paths.items() if newest_s - max(at_s, self.since_s) > SILENT_S
        )

    def heard_by(self, now_s: float) -> tuple[str, ...]:
        """The paths by which the peer is heard."""
        silent = self.paths if self.is_silent(now_s) else self.silent_paths()
        return tuple(name for name in self.paths if name not in silent)


def judge_paths(heard: Heard, peer: str, sync: Mapping[str, str], now_s: float) -> tuple[Finding, ...]:
    """`sync`: the paths of the sync links, and what people call them. "The peer is gone" and "that link is
    gone" are two sentences."""
    if not heard.paths:
        return ((Condition.PEER, False, f"no link has addresses of this node and of {peer}"),)
    if heard.is_silent(now_s):
        gone = f"the agent of {peer} is heard by no path ({_named(heard.paths, sync)})"
        return (Condition.PEER, False, gone), (Condition.PEER_PATH, True, "no path carries any words")
    good = (Condition.PEER, True, f"the agent of {peer} is heard")
    silent = heard.silent_paths()
    if not silent:
        return good, (Condition.PEER_PATH, True, f"the agent of {peer} is heard by every path")
    which = ("the sync link" if len(sync) == 1 else "a sync link") if {*sync} & {*silent} else "a data link"
    still = _named((name for name in heard.paths if name not in silent), sync)
    text = f"{which} does not carry the agents' words ({_named(silent, sync)}); {peer} is heard by {still}"
    return good, (Condition.PEER_PATH, False, text)


def _named(paths: Iterable[str], sync: Mapping[str, str]) -> str:
    return ", ".join(sync.get(name, name) for name in paths)


@dataclass(frozen=True, slots=True)
class Differing:
    """The moment of the peer's word that each of these conditions was first found in."""

    since_s: Mapping[Condition, float] = field(default_factory=dict)


def judge_peer(
    own: NodeStatus, heard: Heard, names: tuple[str, str], takeover_s: float, before: Differing, now_s: float
) -> tuple[Differing, tuple[Finding, ...]]:
    """What differs between this node and what its peer has said of itself; `names` are theirs. A condition
    ends at once. It begins when the peer has said the same for as long as the change of one node after the
    other may take: the last word of a dead peer is as old as a takeover, and no witness.

    Of a peer that is silent nothing is said but what this node's own role alone disproves."""
    if heard.status is None or heard.is_silent(now_s):
        return before, tuple(_disproved(own.role))
    found = dict(_compare(own, heard.status, names, now_s - heard.at_s))
    since = {
        condition: before.since_s.get(condition, heard.at_s) for condition, text in found.items() if text
    }
    findings: list[Finding] = []
    for condition, text in found.items():
        lasts_s = max(_LASTS_S[condition], takeover_s * (condition in _OF_TAKEOVER))
        if not text:
            findings.append((condition, True, _EQUAL[condition]))
        elif heard.at_s - since[condition] >= lasts_s:
            findings.append((condition, False, text))
    return Differing(since), tuple(findings)


SPLIT_S = 1.0
"""A node that loses its role notices that a moment after the other one has taken it; this is longer."""


def judge_split(
    own: NodeStatus, heard: Heard, names: tuple[str, str], told_s: float, now_s: float
) -> tuple[float, str]:
    """Whether both nodes were primary at once, and no longer are. Also where neither heard the other all
    that time: each says since when it is primary, or from when until when it was. `told_s`: when the one
    ceased of which that was last said. Returns the next `told_s`, and the words, which are empty when there
    is nothing new."""
    if heard.status is None or heard.is_silent(now_s):
        return told_s, ""
    told = ((names[0], own, now_s), (names[1], heard.status, heard.at_s))
    primary = next((one for one in told if one[1].role is Role.PRIMARY), None)
    backup = next((one for one in told if one[1].role is Role.BACKUP), None)
    if primary is None or backup is None or backup[1].ceased_s is None or backup[1].served_s is None:
        return told_s, ""
    ceased_s = backup[2] - backup[1].ceased_s
    both_s = min(ceased_s - (primary[2] - primary[1].role_s), backup[1].served_s)
    # a word takes a while, and not always the same one
    if both_s < SPLIT_S or ceased_s < told_s + SPLIT_S:
        return told_s, ""
    return ceased_s, f"both nodes were primary for {both_s:.1f} s; {primary[0]} still is, {backup[0]} is not"


def _disproved(role: Role) -> Iterator[Finding]:
    if role is Role.PRIMARY:
        yield Condition.NEITHER_PRIMARY, True, "this node is primary"
    else:
        yield Condition.SPLIT_BRAIN, True, "this node is not primary"


_LASTS_S = {
    Condition.SPLIT_BRAIN: 1.0,
    Condition.NEITHER_PRIMARY: 1.0,
    Condition.STATES_DIFFER: 10.0,
    Condition.PAIR_FILES_DIFFER: 1.0,
    Condition.RULES_DIFFER: 1.0,
    Condition.VERSIONS_DIFFER: 1.0,
    Condition.CLOCKS_DIFFER: 1.0,
}
_OF_TAKEOVER = {Condition.NEITHER_PRIMARY}
_EQUAL = {
    Condition.SPLIT_BRAIN: "one node at the most says that it is primary",
    Condition.NEITHER_PRIMARY: "a node says that it is primary",
    Condition.STATES_DIFFER: "both nodes have about the same states",
    Condition.PAIR_FILES_DIFFER: "both nodes have the same pair file",
    Condition.RULES_DIFFER: "both nodes have the same rules in force",
    Condition.VERSIONS_DIFFER: "both nodes run the same versions",
    Condition.CLOCKS_DIFFER: "the clocks agree",
}
MAX_SHARE = 0.05
MAX_STATES = 100
"""So large a share of the states may be on one node only, and so many more: they come and go while the
counts are on their way."""


def _compare(
    own: NodeStatus, other: NodeStatus, names: tuple[str, str], age_s: float
) -> Iterator[tuple[Condition, str]]:
    """Each with what differs, or an empty text. `age_s`: of what the other has said."""
    node, peer = names
    primary = [name for name, one in ((node, own), (peer, other)) if one.role is Role.PRIMARY]
    yield Condition.SPLIT_BRAIN, f"both nodes are primary, {node} and {peer}" if len(primary) == 2 else ""
    roles = f"{node} is {own.role.value}, {peer} is {other.role.value}"
    known = Role.UNKNOWN not in (own.role, other.role)
    yield Condition.NEITHER_PRIMARY, f"no node is primary: {roles}" if known and not primary else ""
    yield Condition.STATES_DIFFER, _compare_states(own, other, names)
    yield Condition.PAIR_FILES_DIFFER, _differ("pair file", own.pair_file, other.pair_file, names)
    rules = _differ("digest of the rules in force", own.rules, other.rules, names)
    yield Condition.RULES_DIFFER, rules or own.sets_differ or other.sets_differ
    yield Condition.VERSIONS_DIFFER, _compare_versions(own.versions, other.versions, names)
    ahead_s = other.clock_s + age_s - own.clock_s
    direction = "ahead of" if ahead_s > 0 else "behind"
    clocks = f"the clock of {peer} is {abs(ahead_s):.1f} s {direction} that of {node}"
    yield Condition.CLOCKS_DIFFER, clocks if abs(ahead_s) > MAX_CLOCK_S else ""


def _compare_states(own: NodeStatus, other: NodeStatus, names: tuple[str, str]) -> str:
    """Between a primary and a backup that says that it has the states, as their last comparison counted."""
    pairs = {own.role: (names[0], own), other.role: (names[1], other)}
    if set(pairs) != {Role.PRIMARY, Role.BACKUP}:
        return ""
    (primary, of_primary), (backup, of_backup) = pairs[Role.PRIMARY], pairs[Role.BACKUP]
    counted = all({*one.states} - {EVERY} for one in (of_primary, of_backup))
    if of_backup.ready is not True or not counted:
        return ""
    parts = []
    for protocol in sorted({*of_primary.states, *of_backup.states} - {EVERY}):
        many, few = of_primary.states.get(protocol, 0), of_backup.states.get(protocol, 0)
        if abs(many - few) > MAX_STATES + MAX_SHARE * max(many, few):
            parts.append(f"{few} {protocol} for {many}")
    return f"{backup} has other states than {primary}: {', '.join(parts)}" if parts else ""


def _differ(what: str, own: str, other: str, names: tuple[str, str]) -> str:
    if not own or not other or own == other:
        return ""
    return f"the nodes differ in their {what}: {names[0]} has {own}, {names[1]} has {other}"


def _compare_versions(own: Mapping[str, str], other: Mapping[str, str], names: tuple[str, str]) -> str:
    """Of what both know."""
    parts = [
        f"{name} {own[name]} and {other[name]}"
        for name in sorted({*own} & {*other})
        if own[name] != other[name]
    ]
    return f"{names[0]} and {names[1]} run different versions: {', '.join(parts)}" if parts else ""
