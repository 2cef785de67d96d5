# SPDX-License-Identifier: GPL-2.0-or-later
"""What rules are made of: what a packet is asked for, what that is compared with, and what is done then.
What nft calls all this is in nft_json.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

# -- what a packet has --


@dataclass(frozen=True, slots=True)
class Meta:
    key: str


@dataclass(frozen=True, slots=True)
class Payload:
    protocol: str
    field: str


@dataclass(frozen=True, slots=True)
class Ct:
    """Of the packet's connection, or of one direction of it."""

    key: str
    direction: str = ""


@dataclass(frozen=True, slots=True)
class Fib:
    """What the kernel's routes say."""

    result: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Masked:
    field: "Value"
    mask: "Value"


# -- what it is compared with --


@dataclass(frozen=True, slots=True)
class Prefix:
    address: str
    length: int


@dataclass(frozen=True, slots=True)
class Range:
    first: int | str
    last: int | str


@dataclass(frozen=True, slots=True)
class Concat:
    """Of fields, or of values for them."""

    parts: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Bits:
    """Any of these. Not a set: tested as bits, which needs no look into one."""

    names: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    values: tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A named set or map."""

    name: str


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON of nft's that is not understood here: of other programs, or of a newer nft."""

    json: Any

    @property
    def kind(self) -> str:
        return next(iter(self.json), "") if isinstance(self.json, dict) else ""


Field: TypeAlias = Meta | Payload | Ct | Fib | Masked | Concat | Raw
Value: TypeAlias = Field | Prefix | Range | Bits | OneOf | NamedSet | int | str


# -- what is done --


class Verdict(Enum):
    """What a rule or a chain says of a packet."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    RETURN = "return"
    QUEUE = "queue"
    JUMP = "jump"
    GOTO = "goto"
    CONTINUE = "continue"
    """It says nothing: what comes behind it decides."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Decision:
    """`chain` is where a jump or goto leads to."""

    verdict: Verdict
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """`kind` and `code` as nft has them; empty: nft's own."""

    kind: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    field: Value
    value: Value
    operator: str = "=="


@dataclass(frozen=True, slots=True)
class Count:
    """By the rule itself; `start` are the packets and bytes that it begins with."""

    start: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class NamedCounter:
    name: str


@dataclass(frozen=True, slots=True)
class Limit:
    """Matches as long as there are at most so many packets a period, or whenever there are more."""

    count: int
    period: str
    burst: int = 0
    over: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionLimit:
    count: int
    over: bool = False


@dataclass(frozen=True, slots=True)
class SetUpdate:
    """Puts the packet's `element` into the set, or renews its time there; `limits` are counted for each."""

    operation: str
    element: Value
    name: str
    limits: tuple["Statement", ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    prefix: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class Translate:
    """`kind` is snat, dnat or masquerade. None is: stays the same."""

    kind: str
    version: str = ""
    address: Value | None = None
    port: Value | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """`entries` are a named map's, or its own."""

    key: Value
    entries: NamedSet | tuple[tuple[Value, "Decision | Reject | Raw"], ...]


@dataclass(frozen=True, slots=True)
class Helper:
    name: str


@dataclass(frozen=True, slots=True)
class Notrack:
    pass


Statement: TypeAlias = (
    Match
    | Decision
    | Reject
    | Count
    | NamedCounter
    | Limit
    | ConnectionLimit
    | SetUpdate
    | Log
    | Translate
    | VerdictMap
    | Helper
    | Notrack
    | Raw
)

ACCEPT = Decision(Verdict.ACCEPT)
DROP = Decision(Verdict.DROP)
RETURN = Decision(Verdict.RETURN)
NOTRACK = Notrack()
COUNTER = Count()
IIFNAME = Meta("iifname")
OIFNAME = Meta("oifname")
L4PROTO = Meta("l4proto")
NFPROTO = Meta("nfproto")
CT_STATE = Ct("state")
TRANSLATING = frozenset({"snat", "dnat", "masquerade", "redirect"})
ORIGINAL = "original"
"""The direction of a connection's first packet as it came in, before anything was translated. (nft 1.0.6
prints ports there right only alone or as a range, not in a set.)"""


def jump(chain: str) -> Decision:
    return Decision(Verdict.JUMP, chain)


def in_state(*states: str) -> Match:
    """A match of the state of the packet's connection: any of `states`."""
    return Match(CT_STATE, states[0] if len(states) == 1 else Bits(states), "in")


def concat(*parts: Value) -> Concat:
    return Concat(parts)


def update_set(name: str, element: Value) -> SetUpdate:
    return SetUpdate("update", element, name)


def verdict_map(key: Value, verdicts: Iterable[tuple[Value, Decision]]) -> VerdictMap:
    return VerdictMap(key, tuple(verdicts))


def one_of(values: Sequence[Value]) -> Value:
    """What matches any of `values` (at least one)."""
    return values[0] if len(values) == 1 else OneOf(tuple(values))
