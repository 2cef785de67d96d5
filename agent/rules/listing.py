# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft says is loaded, read defensively. Pure.

What lasts of a listing is all but the two chains that make the role and what moves by itself (handles,
counts, expiry times, the elements of dynamic sets). It is equal in two readings of unchanged tables, also
across a flip.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

from agent.core.roles import RuleSet
from agent.rules.compile import DIGEST_PREFIX
from agent.rules.delta import Counts, RuleCounts
from agent.rules.gate import closed, is_role_part
from agent.rules.nft_parse import Entry, parse_counts, parse_object
from agent.rules.objects import FAMILY, GATE_TABLE, TABLE, TABLES, Object, Rule

_encode = json.JSONEncoder(sort_keys=True).encode
_MOVING = frozenset({"handle", "packets", "bytes", "expires", "used"})


@dataclass(frozen=True, slots=True)
class Counter:
    name: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Of what lasts of a listing, by which it is known again. It is of the text of the JSON: that says all
    that nft says, also what is not understood here, and the same to another version of this program."""

    whole: str
    parts: Mapping[str, str]
    """Of `chain forward`, `set own4`. The order of the entries counts, as it does for rules."""


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

    @property
    def lasting(self) -> Iterator[Entry]:
        """Its entries, but for the elements of the sets that move."""
        return (
            (kind, _unmoved(kind, body, self.moving))
            for kind, body in self.entries
            if not _is_role_part(kind, body)
        )

    def objects(self, parts: Collection[str]) -> Iterator[Object]:
        """What lasts and belongs to one of `parts`."""
        return (parse_object(kind, body) for kind, body in self.lasting if part_of(kind, body) in parts)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        return _fingerprint(self.lasting)

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


def _fingerprint(lasting: Iterable[Entry]) -> Fingerprint:
    texts = tuple((part_of(kind, body), _text({kind: body})) for kind, body in lasting)
    by_part: dict[str, list[str]] = {}
    for part, text in texts:
        by_part.setdefault(part, []).append(text)
    # the agent before an upgrade has left that of the same texts
    return Fingerprint(
        _hash(repr(texts)), {part: _hash("\n".join(found)) for part, found in by_part.items()}
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def changed_parts(before: Fingerprint, after: Fingerprint) -> tuple[str, ...]:
    """The names of the parts that differ."""
    old, new = before.parts, after.parts
    return tuple(part for part in dict.fromkeys((*old, *new)) if old.get(part) != new.get(part))


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
    found = [parse_object(kind, body) for kind, body in entries if _is_role_part(kind, body)]
    if not found:
        return RuleSet.PRIMARY
    return RuleSet.BACKUP if _in_order(map(_without_handle, found)) == _CLOSED else None


def _in_order(objects: Iterable[Object]) -> list[Object]:
    """The rules of each chain stay in theirs."""
    return sorted(objects, key=attrgetter("part", "kind"))


def _without_handle(one: Object) -> Object:
    return replace(one, handle=None) if isinstance(one, Rule) else one


def _counter(body: Mapping[str, object]) -> Counter:
    counts = parse_counts(body)
    if counts is None:
        raise ValueError(f"the counter `{body.get('name')}` has no count")
    return Counter(str(body.get("name")), *counts)


def part_of(kind: str, body: Mapping[str, object]) -> str:
    """The part that an object or a rule of a table is reported as: `chain forward`, `set own4`."""
    return f"chain {body.get('chain')}" if kind == "rule" else f"{kind} {body.get('name')}"


def _text(value: object) -> str:
    return _encode(_still(value))


def _still(value: object) -> object:
    """`value` without what moves by itself; the elements of a set have no order."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("set"), list):
            return {"set": sorted(map(_text, value["set"]))}
        return {
            key: _elements(inner) if key == "elem" else _still(inner)
            for key, inner in value.items()
            if key not in _MOVING
        }
    if isinstance(value, list):
        return [_still(inner) for inner in value]
    return value


def _elements(value: object) -> object:
    return sorted(map(_element_text, value)) if isinstance(value, list) else _still(value)


def _element_text(element: object) -> str:
    """One text for one element. Most are plain, and there may be many."""
    return element if isinstance(element, str) else _text(element)


_CLOSED = _in_order(closed())
