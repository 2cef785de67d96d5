# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between two tables, as people read it: rules in words, under the way that they are on. Pure.

Both sides are sequences of (part, entry) as `Listing.lasting` has them; parts_of() makes the same of a
compiled table.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.rules.compile import is_passing
from agent.rules.delta import is_moving
from agent.rules.describe import sentence, value_text
from agent.rules.listing import part_of
from agent.rules.nft_json import Commands, additions

Parts = Sequence[tuple[str, str]]
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
class Change:
    """One thing more (`added`) or less in `part` of the table."""

    part: str
    added: bool
    text: str


def parts_of(commands: Commands) -> Parts:
    """What a compiled table has for good: not its role, and not its digest."""
    return [
        (part_of(kind, body), json.dumps({kind: body}))
        for kind, body in additions(commands)
        if not is_passing(kind, body)
    ]


def changes(before: Parts, after: Parts) -> tuple[Change, ...]:
    """From `before` to `after`; within a part in its order, what goes before what comes."""
    old, new = _by_part(before), _by_part(after)
    parts = dict.fromkeys((*old, *new))
    return tuple(
        change
        for part in parts
        if old.get(part) != new.get(part)
        for change in _changes_in(part, old.get(part, []), new.get(part, []))
    )


def _by_part(parts: Parts) -> dict[str, list[str]]:
    """The lines of every part. One for each rule, and for each element of a set."""
    found: dict[str, list[str]] = {}
    for part, text in parts:
        found.setdefault(part, []).extend(_lines(text))
    return found


def _lines(text: str) -> Iterator[str]:
    ((kind, body),) = json.loads(text).items()
    if kind == "rule":
        yield sentence(body)
    elif kind == "chain":
        # a chain without a hook is nothing by itself
        if "hook" in body:
            yield f"default: {body.get('policy', 'accept')}"
    elif kind in ("set", "map", "element"):
        if kind != "element":
            yield f"a {kind} of {value_text(body.get('type'))}"
        if not is_moving(str(body.get("name")), body):
            yield from sorted(_element_text(one) for one in _listed(body.get("elem")))
    else:
        yield f"a {kind}"


def _listed(elements: object) -> Iterable[object]:
    # `lasting` has the elements of a set as texts of JSON, so that their order does not count
    for element in elements if isinstance(elements, list) else []:
        yield _parsed(element) if isinstance(element, str) else element


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _element_text(element: object) -> str:
    match element:
        case [key, verdict]:
            return f"{value_text(key)} -> {value_text(verdict)}"
    return value_text(element)


def _changes_in(part: str, old: Sequence[str], new: Sequence[str]) -> Iterator[Change]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for verb, first, last, begin, end in matcher.get_opcodes():
        if verb != "equal":
            yield from (Change(part, False, line) for line in old[first:last])
            yield from (Change(part, True, line) for line in new[begin:end])


def title_of(part: str, zones: Mapping[str, str]) -> str:
    """What a part of the table is to people. `zones`: the zone of each interface."""
    way = _WAY.fullmatch(part)
    if way is not None:
        names = [way["ingress"], way["egress"]]
        ends = [f"{zones[name]} ({name})" if name in zones else name for name in names]
        return f"from {ends[0]} to {ends[1]}"
    return _PLACES.get(part, part)


def to_text(found: Sequence[Change], zones: Mapping[str, str]) -> str:
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


def to_sentence(found: Sequence[Change], most: int = 4) -> str:
    """For one line of a record."""
    reported = [f"{one.part} has {'more' if one.added else 'less'}: {one.text}" for one in found[:most]]
    more = len(found) - most
    return "; ".join((*reported, *([f"and {more} more"] if more > 0 else [])))
