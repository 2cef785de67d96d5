# SPDX-License-Identifier: GPL-2.0-or-later
"""From one compiled table to another in one transaction that touches nothing that stays the same. Pure.

What is not touched keeps what it has gathered: named counters, dynamic sets, the chains whose rules are the
same. A chain that changes is flushed and filled again; a rule of it that stays begins with the counts that
it had. (What was counted between the reading of those counts and the transaction is lost: milliseconds.)

Which table the kernel has is not looked at here. The transaction flushes the chain that carries the digest
of the old table, so that it fails as a whole on any other.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from agent.rules.gate import STOP_GAPS
from agent.rules.nft_json import (
    COUNTER,
    GATE_TABLE,
    Command,
    Commands,
    Json,
    add_table,
    additions,
    delete_table,
)

Body = Mapping[str, Json]
Counts = tuple[int, int]
"""Packets and bytes."""
RuleCounts = Mapping[str, Sequence[Counts | None]]
"""For every chain, the counts of its rules in their order; None for a rule that does not count."""

Key = TypeVar("Key")

_MOVING_FLAGS = frozenset({"dynamic", "timeout"})
MOVING_NAMES = ("limit/", "connections/")
"""How the sets begin that rules fill; nft 1.0.6 takes no flag `dynamic` in its JSON."""
_FEW = 1_000


@dataclass(slots=True)
class Model:
    """A compiled table, taken apart. Objects are counters, sets, maps and helpers, by kind and name."""

    chains: dict[str, Body] = field(default_factory=dict)
    objects: dict[tuple[str, str], Body] = field(default_factory=dict)
    elements: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    rules: dict[str, list[Body]] = field(default_factory=dict)

    @property
    def moving(self) -> frozenset[str]:
        """The names of the sets whose elements come and go with the packets."""
        return frozenset(name for (_, name), body in self.objects.items() if is_moving(name, body))

    @property
    def crowded(self) -> bool:
        """Whether more elements may come and go in one of its sets than a listing should have to carry."""
        sizes = (body.get("size") for (_, name), body in self.objects.items() if is_moving(name, body))
        return any(not isinstance(size, int) or size > _FEW for size in sizes)


def is_moving(name: str, body: Mapping[str, object]) -> bool:
    """Whether the rules or the clock, not the pair file, decide what this set holds."""
    if name.startswith(MOVING_NAMES):
        return True
    flags = body.get("flags")
    listed = flags if isinstance(flags, list | tuple) else [flags]
    return not _MOVING_FLAGS.isdisjoint(str(flag) for flag in listed)


def model_of(commands: Commands) -> Model:
    """`commands` as compile_table() makes them: what they add, whatever they deleted before."""
    model = Model()
    for kind, body in additions(commands):
        _take(model, kind, body)
    return model


def _take(model: Model, kind: str, body: Body) -> None:
    name = str(body.get("name"))
    if kind == "chain":
        model.chains[name] = body
    elif kind == "rule":
        model.rules.setdefault(str(body["chain"]), []).append(body)
    elif kind == "element":
        model.elements[_holder(model, name)].extend(_elements(body))
    elif kind != "table":
        model.objects[kind, name] = {key: value for key, value in body.items() if key != "elem"}
        model.elements[kind, name] = _elements(body)


def _holder(model: Model, name: str) -> tuple[str, str]:
    return ("map", name) if ("map", name) in model.objects else ("set", name)


def _elements(body: Body) -> list[Json]:
    found = body.get("elem")
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def compile_change(before: Commands, after: Commands, counts: RuleCounts) -> Commands | None:
    """The transaction from one table of compile_table() to another one.

    None when a chain's hook or the kind of a set would have to change: then the whole table is made again.
    """
    old, new = model_of(before), model_of(after)
    if _differ(old.chains, new.chains) or _differ(old.objects, new.objects):
        return None
    changed = [name for name in new.chains if old.rules.get(name) != new.rules.get(name)]
    gone = [name for name in old.chains if name not in new.chains]
    return (
        *(_add(kind, _whole(new, kind, name)) for kind, name in _only(new.objects, old.objects)),
        *(_add("chain", body) for name, body in new.chains.items() if name not in old.chains),
        *_change_elements(old, new),
        *(_at("flush", "chain", old.chains[name]) for name in (*changed, *gone) if name in old.chains),
        *(_add("rule", rule) for name in changed for rule in _counted(old, new, name, counts.get(name, ()))),
        *(_at("delete", "chain", old.chains[name]) for name in gone),
        *(_at("delete", key[0], old.objects[key]) for key in _only(old.objects, new.objects)),
    )


def compile_refill(table: Commands, parts: Collection[str]) -> Commands:
    """The transaction that makes those chains and objects of `table` that are among `parts` what they were
    made, whatever is left of them. Nothing else is touched."""
    model = model_of(table)
    stopped = any(f"chain {name}" in parts for name in STOP_GAPS)

    def is_among(part: str, body: Body) -> bool:
        return part in parts or (stopped and body["table"] == GATE_TABLE)

    chains = [name for name, body in model.chains.items() if is_among(f"chain {name}", body)]
    objects = [key for key, body in model.objects.items() if is_among(" ".join(key), body)]
    sets = [key for key in objects if key[0] in ("set", "map")]
    return (
        # with all that a stop-gap has put there
        *((add_table(GATE_TABLE), delete_table(GATE_TABLE)) if stopped else ()),
        *((add_table(GATE_TABLE),) if stopped or f"table {GATE_TABLE}" in parts else ()),
        *(_add(key[0], model.objects[key]) for key in objects),
        *(_add("chain", model.chains[name]) for name in chains),
        *(_at("flush", "chain", model.chains[name]) for name in chains),
        *(_at("flush", key[0], model.objects[key]) for key in sets),
        *(_add(kind, _whole(model, kind, name)) for kind, name in sets),
        *(_add("rule", rule) for name in chains for rule in model.rules.get(name, ())),
    )


def touched_parts(change: Commands) -> set[str]:
    """The parts of the table, as `Listing.lasting` names them, that `change` is about."""
    found: set[str] = set()
    for command in change:
        for target in command.values():
            match target:
                case {"rule": {"chain": str(chain)}}:
                    found.add(f"chain {chain}")
                case {"element": {"name": str(name)}}:
                    found |= {f"set {name}", f"map {name}"}
                case Mapping():
                    bodies = ((kind, body) for kind, body in target.items() if isinstance(body, Mapping))
                    found |= {f"{kind} {body.get('name')}" for kind, body in bodies}
    return found


def _differ(old: Mapping[Key, Body], new: Mapping[Key, Body]) -> bool:
    return any(name in new and new[name] != body for name, body in old.items())


def _only(
    these: Mapping[tuple[str, str], Body], others: Mapping[tuple[str, str], Body]
) -> Iterator[tuple[str, str]]:
    return (key for key in these if key not in others)


def _whole(model: Model, kind: str, name: str) -> Body:
    elements = model.elements[kind, name]
    body = model.objects[kind, name]
    return {**body, "elem": elements} if elements else body


def _add(kind: str, body: Body) -> Command:
    return {"add": {kind: body}}


def _at(verb: str, kind: str, body: Body) -> Command:
    return {verb: {kind: _place(body)}}


def _place(body: Body) -> Body:
    return {key: body[key] for key in ("family", "table", "name")}


def _change_elements(old: Model, new: Model) -> Iterator[Command]:
    """One element of a large set costs one element, not the set."""
    for (kind, name), wanted in new.elements.items():
        if (kind, name) not in old.objects:
            continue
        there = old.elements[kind, name]
        less, more = _without(there, wanted), _without(wanted, there)
        if less:
            yield {"delete": {"element": {**_place(new.objects[kind, name]), "elem": less}}}
        if more:
            # `add element` would make libnftables read the whole set first
            yield _add(kind, {**new.objects[kind, name], "elem": more})


def _without(these: Iterable[Json], others: Iterable[Json]) -> list[Json]:
    known = {element_text(element) for element in others}
    return [element for element in these if element_text(element) not in known]


def _counted(old: Model, new: Model, chain: str, counts: Sequence[Counts | None]) -> Iterator[Body]:
    """The rules of a chain; the ones that were there before keep counting where they were."""
    before = old.rules.get(chain, [])
    # another number of rules is not the table that was compiled: whose counts would these be?
    known = counts if len(counts) == len(before) else [None] * len(before)
    left: dict[str, list[Counts | None]] = {}
    for rule, count in zip(before, known, strict=True):
        left.setdefault(_text(rule), []).append(count)
    for rule in new.rules.get(chain, []):
        same = left.get(_text(rule))
        yield _starting_at(rule, same.pop(0) if same else None)


def _starting_at(rule: Body, count: Counts | None) -> Body:
    expressions = rule["expr"]
    if count is None or not isinstance(expressions, list | tuple):
        return rule
    start: Json = {"counter": {"packets": count[0], "bytes": count[1]}}
    return {**rule, "expr": [start if every == COUNTER else every for every in expressions]}


def element_text(element: object) -> str:
    """One text for one element, whatever the order of its keys. Most are plain, and there may be many."""
    return element if isinstance(element, str) else json.dumps(element, sort_keys=True)


def _text(value: Json) -> str:
    return json.dumps(value, sort_keys=True)
