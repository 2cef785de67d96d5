# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between two tables, as people read it: rules in words, under their way. Pure."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.rules.describe import sentence, value_text, verdict_text
from agent.rules.objects import Chain, Map, Object, Rule, Set

Lines = Mapping[str, Sequence[str]]
"""The lines of every part. One for each rule, and for each element of a set."""
_WAY = re.compile(r"chain from/(?P<ingress>[^/]+)/to/(?P<egress>[^/]+)")
_PLACES = {
    "chain input": "to the firewall itself",
    "chain output": "from the firewall itself",
    "chain srcnat": "source addresses",
    "chain dstnat": "destination addresses",
    "chain forward": "before every way through",
    "chain closed": "what passes a closed gate",
}


@dataclass(frozen=True, slots=True)
class LineChange:
    """One thing more (`added`) or less in `part` of the table."""

    part: str
    added: bool
    text: str


def lines_of(objects: Iterable[Object]) -> Lines:
    """Of compiled tables: without what makes their role, and without their digest."""
    found: dict[str, list[str]] = {}
    for one in objects:
        found.setdefault(one.part, []).extend(_lines(one))
    return found


def changes(old: Lines, new: Lines) -> tuple[LineChange, ...]:
    """From `old` to `new`; within a part in its order, what goes before what comes."""
    parts = dict.fromkeys((*old, *new))
    return tuple(
        change
        for part in parts
        if old.get(part) != new.get(part)
        for change in _changes_in(part, old.get(part, []), new.get(part, []))
    )


def _lines(one: Object) -> Iterator[str]:
    if not isinstance(one, Rule) and one.more is not None:
        yield value_text(one.more)
    match one:
        case Rule():
            yield sentence(one)
        case Chain(hook=hook):
            # a chain without a hook is nothing by itself
            if hook is not None:
                yield f"what no rule decides: {hook.policy}"
        case Set() | Map():
            yield f"a {one.kind} of {', '.join(one.type)}"
            if not one.is_moving:
                yield from sorted(_elements(one))
        case _:
            yield f"a {one.part.rpartition(' ')[0]}"


def _elements(one: Set | Map) -> Iterator[str]:
    if isinstance(one, Set):
        return (value_text(element) for element in one.elements)
    return (f"{value_text(key)} -> {verdict_text(mapped)}" for key, mapped in one.entries)


def _changes_in(part: str, old: Sequence[str], new: Sequence[str]) -> Iterator[LineChange]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for verb, first, last, begin, end in matcher.get_opcodes():
        if verb != "equal":
            yield from (LineChange(part, False, line) for line in old[first:last])
            yield from (LineChange(part, True, line) for line in new[begin:end])


def title_of(part: str, zones: Mapping[str, str]) -> str:
    """What a part of the table is to people. `zones`: the zone of each interface."""
    way = _WAY.fullmatch(part)
    if way is not None:
        names = [way["ingress"], way["egress"]]
        ends = [f"{zones[name]} ({name})" if name in zones else name for name in names]
        return f"from {ends[0]} to {ends[1]}"
    return _PLACES.get(part, part)


def to_text(found: Sequence[LineChange], zones: Mapping[str, str]) -> str:
    """A screen for people; empty when nothing differs."""
    lines: list[str] = []
    last = None
    for change in found:
        title = title_of(change.part, zones)
        if title != last:
            lines.append(f"{title}:")
        last = title
        lines.append(f"  {'+' if change.added else '-'} {change.text}")
    return "".join(f"{line}\n" for line in lines)


def to_sentence(found: Sequence[LineChange], max_count: int = 4) -> str:
    """For one line of a record."""
    reported = [f"{one.part} has {'more' if one.added else 'less'}: {one.text}" for one in found[:max_count]]
    more = len(found) - max_count
    return "; ".join((*reported, *([f"and {more} more"] if more > 0 else [])))
