# SPDX-License-Identifier: GPL-2.0-or-later
"""From one compiled table to another in one transaction that touches nothing that stays the same. Pure.

What is not touched keeps what it has gathered: named counters, dynamic sets, the chains whose rules are the
same. A chain that changes is flushed and filled again; a rule of it that stays begins with the counts that
it had. (What was counted between the reading of those counts and the transaction is lost: milliseconds.)

Which table the kernel has is not looked at here. The transaction flushes the chain that carries the digest
of the old table, so that it fails as a whole on any other.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from agent.rules.gate import STOP_GAPS
from agent.rules.objects import (
    GATE_TABLE,
    Chain,
    Command,
    Commands,
    DeleteElements,
    Map,
    Object,
    Rule,
    Set,
    Table,
    Verb,
    add,
)
from agent.rules.statements import COUNTER, Count, Value

Counts = tuple[int, int]
"""Packets and bytes."""
RuleCounts = Mapping[str, Sequence[Counts | None]]
"""For every chain, the counts of its rules in their order; None for a rule that does not count."""

Key = TypeVar("Key")

_FEW = 1_000


@dataclass(slots=True)
class Model:
    """What the tables hold, by name. `objects` are counters, sets, maps and helpers, by kind and name."""

    chains: dict[str, Chain] = field(default_factory=dict)
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)

    @property
    def sets(self) -> Iterator[Set | Map]:
        return (one for one in self.objects.values() if isinstance(one, Set | Map))

    @property
    def moving(self) -> frozenset[str]:
        """The names of the sets whose elements come and go with the packets."""
        return frozenset(one.name for one in self.sets if one.is_moving)

    @property
    def crowded(self) -> bool:
        """Whether more elements may come and go in one of its sets than a listing should have to carry."""
        sizes = (one.size for one in self.sets if isinstance(one, Set) and one.is_moving)
        return any(size is None or size > _FEW for size in sizes)


def model_of(objects: Iterable[Object]) -> Model:
    model = Model()
    for one in objects:
        match one:
            case Rule():
                model.rules.setdefault(one.chain, []).append(one)
            case Chain():
                model.chains[one.name] = one
            case Table():
                pass
            case _:
                model.objects[one.key] = one
    return model


def compile_change(old: Model, new: Model, counts: RuleCounts) -> Commands | None:
    """The transaction from the tables of one pair to those of another one.

    None when a chain's hook or the kind of a set would have to change: then the whole table is made again.
    """
    if _differ(old.chains, new.chains) or _differ(_empty(old), _empty(new)):
        return None
    changed = [name for name in new.chains if old.rules.get(name) != new.rules.get(name)]
    gone = [name for name in old.chains if name not in new.chains]
    flushed = [name for name in (*changed, *gone) if name in old.chains]
    return (
        *add(*(one for key, one in new.objects.items() if key not in old.objects)),
        *add(*(one for name, one in new.chains.items() if name not in old.chains)),
        *_change_elements(old, new),
        *(Command(Verb.FLUSH, old.chains[name]) for name in flushed),
        *add(*(rule for name in changed for rule in _counted(old, new, name, counts.get(name, ())))),
        *(Command(Verb.DELETE, old.chains[name]) for name in gone),
        *(Command(Verb.DELETE, one) for key, one in old.objects.items() if key not in new.objects),
    )


def compile_refill(model: Model, parts: Collection[str]) -> Commands:
    """The transaction that makes those chains and objects of `model` that are among `parts` what they were
    made, whatever is left of them. Nothing else is touched."""
    stopped = any(f"chain {name}" in parts for name in STOP_GAPS)

    def is_among(one: Object) -> bool:
        return one.part in parts or (stopped and one.table == GATE_TABLE)

    chains = [one for one in model.chains.values() if is_among(one)]
    objects = [one for one in model.objects.values() if is_among(one)]
    sets = [one for one in objects if isinstance(one, Set)]
    flushed: list[Object] = [*chains, *sets]
    gate = Table(GATE_TABLE)
    return (
        # with all that a stop-gap has put there
        *((*add(gate), Command(Verb.DELETE, gate)) if stopped else ()),
        *(add(gate) if stopped or gate.part in parts else ()),
        *add(*map(_emptied, objects)),
        *add(*chains),
        *(Command(Verb.FLUSH, one) for one in flushed),
        *add(*sets),
        *add(*(rule for one in chains for rule in model.rules.get(one.name, ()))),
    )


def touched_parts(change: Commands) -> set[str]:
    """The parts of the table, as a fingerprint names them, that `change` is about."""
    return {command.target.part for command in change}


def _differ(old: Mapping[Key, Object], new: Mapping[Key, Object]) -> bool:
    return any(name in new and new[name] != one for name, one in old.items())


def _empty(model: Model) -> dict[tuple[str, str], Object]:
    return {key: _emptied(one) for key, one in model.objects.items()}


def _emptied(one: Object) -> Object:
    return replace(one, elements=()) if isinstance(one, Set) else one


def _change_elements(old: Model, new: Model) -> Iterator[Command | DeleteElements]:
    """One element of a large set costs one element, not the set."""
    for key, wanted in new.objects.items():
        there = old.objects.get(key)
        if not isinstance(wanted, Set) or not isinstance(there, Set):
            continue
        less, more = (
            _without(there.elements, wanted.elements),
            _without(wanted.elements, there.elements),
        )
        if less:
            yield DeleteElements(replace(wanted, elements=less))
        if more:
            # `add element` would make libnftables read the whole set first
            yield Command(Verb.ADD, replace(wanted, elements=more))


def _without(these: Iterable[Value], others: Iterable[Value]) -> tuple[Value, ...]:
    known = frozenset(others)
    return tuple(element for element in these if element not in known)


def _counted(old: Model, new: Model, chain: str, counts: Sequence[Counts | None]) -> Iterator[Rule]:
    """The rules of a chain; the ones that were there before keep counting where they were."""
    before = old.rules.get(chain, [])
    # another number of rules is not the table that was compiled: whose counts would these be?
    known = counts if len(counts) == len(before) else [None] * len(before)
    left: dict[Rule, list[Counts | None]] = {}
    for rule, count in zip(before, known, strict=True):
        left.setdefault(rule, []).append(count)
    for rule in new.rules.get(chain, []):
        same = left.get(rule)
        yield _starting_at(rule, same.pop(0) if same else None)


def _starting_at(rule: Rule, count: Counts | None) -> Rule:
    if count is None:
        return rule
    return replace(
        rule, statements=tuple(Count(count) if one == COUNTER else one for one in rule.statements)
    )
