# SPDX-License-Identifier: GPL-2.0-or-later
"""What our tables hold, and the commands that put it there: typed, before it is JSON. The table is always
named: `inet hafw`, or the gate's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, TypeAlias

from agent.rules.statements import Raw, Statement, Value
from agent.rules.values import comment_text

FAMILY = "inet"
TABLE = "hafw"
GATE_TABLE = "hafw-gate"
TABLES = (TABLE, GATE_TABLE)
"""All that is ours. No two things of one kind have the same name, whichever table they are in."""

MOVING_NAMES = ("limit/", "connections/")
"""How the sets begin that rules fill; nft 1.0.6 takes no flag `dynamic` in its JSON."""
_MOVING_FLAGS = frozenset({"dynamic", "timeout"})


@dataclass(frozen=True, slots=True)
class _Named:
    table: str
    name: str
    more: Raw | None = field(default=None, kw_only=True)
    """What nft says of it that is not understood here."""
    kind: ClassVar[str]

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.name

    @property
    def part(self) -> str:
        """What it is called in a report: `chain forward`, `set own4`."""
        return " ".join(self.key)


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    more: Raw | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "table"

    @property
    def table(self) -> str:
        return self.name

    @property
    def part(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Hook:
    name: str
    priority: int
    policy: str = "accept"
    kind: str = "filter"


@dataclass(frozen=True, slots=True)
class Chain(_Named):
    """With a hook it is a base chain."""

    hook: Hook | None = None
    kind: ClassVar[str] = "chain"


@dataclass(frozen=True, slots=True)
class CounterObject(_Named):
    counts: tuple[int, int] | None = None
    """Packets and bytes."""
    kind: ClassVar[str] = "counter"


@dataclass(frozen=True, slots=True)
class HelperObject(_Named):
    helper: str
    protocol: str
    kind: ClassVar[str] = "ct helper"


@dataclass(frozen=True, slots=True)
class Set(_Named):
    type: tuple[str, ...]
    elements: tuple[Value, ...] = ()
    flags: tuple[str, ...] = ()
    timeout_s: int | None = None
    size: int | None = None
    kind: ClassVar[str] = "set"

    @property
    def is_moving(self) -> bool:
        return is_moving(self.name, self.flags)


@dataclass(frozen=True, slots=True)
class Map(_Named):
    """Only read: ours have no name."""

    type: tuple[str, ...]
    entries: tuple[tuple[Value, Value | Statement], ...] = ()
    flags: tuple[str, ...] = ()
    kind: ClassVar[str] = "map"

    @property
    def is_moving(self) -> bool:
        return is_moving(self.name, self.flags)


@dataclass(frozen=True, slots=True)
class Rule:
    table: str
    chain: str
    statements: tuple[Statement, ...]
    comment: str = ""
    handle: int | None = None
    """Of one that the kernel has."""
    kind: ClassVar[str] = "rule"

    @property
    def part(self) -> str:
        return f"chain {self.chain}"


@dataclass(frozen=True, slots=True)
class Other(_Named):
    """Of a kind that we do not use: only read."""

    sort: str

    @property
    def key(self) -> tuple[str, str]:
        return self.sort, self.name


Object: TypeAlias = Table | Chain | CounterObject | HelperObject | Set | Map | Rule | Other


def is_moving(name: str, flags: Iterable[str]) -> bool:
    """Whether the rules or the clock, not the pair file, decide what this set holds."""
    return name.startswith(MOVING_NAMES) or not _MOVING_FLAGS.isdisjoint(flags)


class Verb(Enum):
    ADD = "add"
    CREATE = "create"
    """Fails where it is there."""
    DELETE = "delete"
    """A chain with its rules."""
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class Command:
    verb: Verb
    target: Object


@dataclass(frozen=True, slots=True)
class DeleteElements:
    """Of a set, which stays."""

    target: Set


Commands: TypeAlias = tuple[Command | DeleteElements, ...]


def add(*objects: Object) -> Commands:
    return tuple(Command(Verb.ADD, one) for one in objects)


def flush_chain(table: str, name: str) -> Command:
    return Command(Verb.FLUSH, Chain(table, name))


def delete_chain(table: str, name: str) -> Command:
    return Command(Verb.DELETE, Chain(table, name))


def base_chain(
    table: str, name: str, hook: str, priority: int, policy: str = "accept", kind: str = "filter"
) -> Chain:
    return Chain(table, name, Hook(hook, priority, policy, kind))


def make_rule(table: str, chain: str, *statements: Statement, comment: str = "") -> Rule:
    return Rule(table, chain, statements, comment_text(comment) if comment else "")
