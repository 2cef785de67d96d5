# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft says is loaded, read defensively. Pure.

`lasting` is the listing without what moves by itself (handles, counts, expiry times, the elements of dynamic
sets) and without the two chains that make the role: two readings of unchanged tables are equal,
also across a flip.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from agent.core.roles import RuleSet
from agent.rules.compile import DIGEST_PREFIX
from agent.rules.delta import Counts, RuleCounts
from agent.rules.gate import closed, is_role_part
from agent.rules.nft_json import object_json
from agent.rules.nft_parse import Entry, parse_counts
from agent.rules.objects import FAMILY, GATE_TABLE, TABLE, TABLES

_MOVING = frozenset({"handle", "packets", "bytes", "expires", "used"})


@dataclass(frozen=True, slots=True)
class Counter:
    name: str
    packets: int
    bytes: int


@dataclass(frozen=True)  # not slotted: what takes its time is made when it is asked for
class Listing:
    """Our tables. `digest` and `rules` are None where they do not say one of ours."""

    digest: str | None
    rules: RuleSet | None
    counters: tuple[Counter, ...]
    entries: tuple[Entry, ...]
    """All of it, as nft said it."""
    moving: Collection[str]
    """The sets whose elements come and go without a change of the rules.
    (1.0.6 does not list the flag `dynamic`.)"""

    @cached_property
    def lasting(self) -> tuple[tuple[str, str], ...]:
        """The part an entry belongs to (`chain forward`, `set own4`), and the entry."""
        lasting = ((kind, body) for kind, body in self.entries if not _is_role_part(kind, body))
        return tuple(
            (part_of(kind, body), _text({kind: _unmoved(kind, body, self.moving)})) for kind, body in lasting
        )

    @cached_property
    def counts(self) -> RuleCounts:
        found: dict[str, list[Counts | None]] = {}
        for kind, body in self.entries:
            if kind == "rule":
                found.setdefault(str(body.get("chain")), []).append(_counts_of(body))
        return found


def listing_of(found: Iterable[Entry], moving: Collection[str]) -> Listing:
    """What the `found` entries of our tables say. ValueError when they are none."""
    entries = tuple(found)
    if not _has_table(entries, TABLE):
        raise ValueError("the table itself is missing")
    counters = tuple(_counter(body) for kind, body in entries if kind == "counter")
    return Listing(_digest(entries), _rules(entries), counters, entries, moving)


def changed_parts(before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The names of the parts that differ; the order of the entries counts, as it does for rules."""
    old, new = _by_part(before), _by_part(after)
    return tuple(part for part in dict.fromkeys((*old, *new)) if old.get(part) != new.get(part))


def _by_part(lasting: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part, entry in lasting:
        found.setdefault(part, []).append(entry)
    return found


def is_ours(kind: str, body: Mapping[str, object]) -> bool:
    """Whether an entry of a listing of all tables is of one of ours."""
    return body.get("family") == FAMILY and body.get("name" if kind == "table" else "table") in TABLES


def _is_role_part(kind: str, body: Mapping[str, object]) -> bool:
    return is_role_part(str(body.get("table")), part_of(kind, body))


def _has_table(entries: Sequence[Entry], name: str) -> bool:
    return any(kind == "table" and body.get("name") == name for kind, body in entries)


def _unmoved(kind: str, body: Mapping[str, object], moving: Collection[str]) -> Mapping[str, object]:
    if kind in ("set", "map") and body.get("name") in moving:
        return {key: value for key, value in body.items() if key != "elem"}
    return body


def _counts_of(rule: Mapping[str, object]) -> Counts | None:
    """Packets and bytes of a listed rule; None when it has no counter of its own."""
    expressions = rule.get("expr")
    for expression in expressions if isinstance(expressions, list) else []:
        counts = parse_counts(expression.get("counter")) if isinstance(expression, Mapping) else None
        if counts is not None:
            return counts
    return None


def _digest(entries: Sequence[Entry]) -> str | None:
    chains = [str(body.get("name")) for kind, body in entries if kind == "chain"]
    found = [name.removeprefix(DIGEST_PREFIX) for name in chains if name.startswith(DIGEST_PREFIX)]
    return found[0] if len(found) == 1 else None


def _rules(entries: Sequence[Entry]) -> RuleSet | None:
    """Closed if the chains that close the gate are there to the letter, open without any of them."""
    if not _has_table(entries, GATE_TABLE):
        return None
    found = [_text({kind: body}) for kind, body in entries if _is_role_part(kind, body)]
    if not found:
        return RuleSet.PRIMARY
    return RuleSet.BACKUP if sorted(found) == _CLOSED else None


def _counter(body: Mapping[str, object]) -> Counter:
    counts = parse_counts(body)
    if counts is None:
        raise ValueError(f"the counter `{body.get('name')}` has no count")
    return Counter(str(body.get("name")), *counts)


def part_of(kind: str, body: Mapping[str, object]) -> str:
    """The part that an object or a rule of a table is reported as: `chain forward`, `set own4`."""
    return f"chain {body.get('chain')}" if kind == "rule" else f"{kind} {body.get('name')}"


def _text(value: object) -> str:
    return json.dumps(_still(value), sort_keys=True)


def _still(value: object) -> object:
    """`value` without what moves by itself; the elements of a set have no order."""
    if isinstance(value, Mapping):
        if set(value) == {"set"} and isinstance(value["set"], list):
            return {"set": sorted(_text(element) for element in value["set"])}
        return {key: _elements(inner) if key == "elem" else _still(inner) for key, inner in _kept(value)}
    if isinstance(value, list | tuple):
        return [_still(inner) for inner in value]
    return value


def _kept(value: Mapping[str, object]) -> list[tuple[str, object]]:
    return [(key, inner) for key, inner in value.items() if key not in _MOVING]


def _elements(value: object) -> object:
    return sorted(_element_text(one) for one in value) if isinstance(value, list) else _still(value)


def _element_text(element: object) -> str:
    """One text for one element. Most are plain, and there may be many."""
    return element if isinstance(element, str) else json.dumps(_still(element), sort_keys=True)


_CLOSED = sorted(_text(object_json(one)) for one in closed())
