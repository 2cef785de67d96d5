# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a packet that arrives at an interface: our loaded table, read from there. Pure.

The walk goes through the hooks in the kernel's order and leaves out what cannot match such a packet. A rule
that depends on anything but the interface stays in, with its condition in words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agent.rules.delta import Model, model_of
from agent.rules.describe import sentence, value_text, verdict_text
from agent.rules.gate import GATE
from agent.rules.nft_parse import Entry, parse_object
from agent.rules.objects import CounterObject, Rule, Set
from agent.rules.simulate import Packet, Truth, applies, decision_in, entries_of_map
from agent.rules.statements import (
    IIFNAME,
    Concat,
    ConnectionLimit,
    Count,
    Decision,
    Limit,
    Match,
    Meta,
    NamedCounter,
    OneOf,
    Reject,
    SetUpdate,
    Statement,
    Value,
    Verdict,
    VerdictMap,
)

_HOOKS = {
    "prerouting": "when it arrives",
    "input": "if it is for the firewall itself",
    "forward": "if it is for another host",
    "postrouting": "when it leaves",
}
_RULE = re.compile(r"\t\t(?P<text>.*) # handle (?P<handle>\d+)")


@dataclass(frozen=True, slots=True)
class Line:
    """A chain's begin (`nft` is None), a rule, or one way of a map. `packets` counts since the last load."""

    depth: int
    text: str
    chain: str
    nft: str | None = None
    packets: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    interface: str | None
    lines: tuple[Line, ...]
    names: tuple[str, ...]
    """The interfaces that the rules know."""

    @property
    def known(self) -> bool:
        return self.interface in self.names

    def text(self) -> str:
        return "".join(f"{line}\n" for one in self.lines for line in _screen(one))

    def values(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "interface": self.interface,
            "lines": [asdict(line) for line in self.lines],
        }


def _screen(line: Line) -> Iterator[str]:
    space = "  " * line.depth
    if line.nft is None:
        yield f"{'':12}{space}{line.text}"
        return
    count = "" if line.packets is None else str(line.packets)
    yield f"{count:>10}  {space}{line.text}"
    if line.nft:
        yield f"{'':12}{space}    {line.nft}"


def rule_texts(table: str, listing: str) -> dict[tuple[str, int], str]:
    """The rules of `table` as nft writes them, by table and handle: from `list table` with handles."""
    found = (_RULE.fullmatch(line) for line in listing.splitlines())
    return {(table, int(rule["handle"])): rule["text"] for rule in found if rule}


def model_of_listing(entries: Sequence[Entry]) -> Model:
    return model_of(parse_object(kind, body) for kind, body in entries if kind != "metainfo")


def show(entries: Sequence[Entry], texts: Mapping[tuple[str, int], str], interface: str | None) -> Shown:
    """`interface` None is a packet of any interface. `texts` as from rule_texts()."""
    table = model_of_listing(entries)
    walk = _Walk(table, texts, Packet(iifname=interface))
    lines = [line for hook in _HOOKS for chain in _base_chains(table, hook) for line in walk.base(chain)]
    if GATE not in table.chains:
        lines.insert(0, Line(0, "the gate is open: the policy decides", GATE))
    return Shown(interface, tuple(lines), _names(table))


def _base_chains(table: Model, hook: str) -> list[str]:
    found = [
        (one.hook.priority, name) for name, one in table.chains.items() if one.hook and one.hook.name == hook
    ]
    return [name for _, name in sorted(found, key=lambda one: one[0])]


def _names(table: Model) -> tuple[str, ...]:
    """Every name in a match or map by interfaces, and in the set `data`."""
    found: set[str] = set()
    for rules in table.rules.values():
        for rule in rules:
            found.update(name for one in rule.statements for name in _interfaces(one))
    data = table.objects.get(("set", "data"))
    found.update(_texts(OneOf(data.elements)) if isinstance(data, Set) else ())
    return tuple(sorted(found))


def _interfaces(statement: Statement) -> Iterator[str]:
    match statement:
        case Match(Meta("iifname" | "oifname"), value):
            yield from _texts(value)
        case VerdictMap(key, tuple(entries)) if IIFNAME in (
            key.parts if isinstance(key, Concat) else (key,)
        ):
            yield from (name for value, _ in entries for name in _texts(value))


def _texts(value: Value) -> Iterator[str]:
    match value:
        case str():
            yield value
        case OneOf(values) | Concat(values):
            yield from (text for one in values for text in _texts(one))


@dataclass(slots=True)
class _Walk:
    table: Model
    texts: Mapping[tuple[str, int], str]
    packet: Packet
    seen: set[str] = field(default_factory=set)

    def base(self, chain: str) -> Iterator[Line]:
        hook = self.table.chains[chain].hook
        lines = list(self._chain(chain, 1))
        if hook is None or (not lines and hook.policy == "accept"):
            return
        yield Line(0, f"{chain}: {_HOOKS[hook.name]} ({hook.name}, priority {hook.priority})", chain)
        yield from lines
        if not _ends(lines):
            yield Line(1, f"everything else: {hook.policy}", chain)

    def _chain(self, chain: str, depth: int) -> Iterator[Line]:
        for rule in self.table.rules.get(chain, []):
            surely = self._surely(rule)
            if surely is Truth.NO:
                continue
            yield self._line(chain, depth, rule)
            yield from self._leads(rule, depth)
            if surely is Truth.YES and _decides(rule):
                return

    def _surely(self, rule: Rule) -> Truth:
        """Whether every packet of the interface reaches the end of the rule; NO: none does."""
        surely = Truth.YES
        for statement in rule.statements:
            if isinstance(statement, Decision | Reject | VerdictMap):
                continue
            matched = applies(self.table, statement, self.packet)
            if matched is Truth.NO:
                return Truth.NO
            # a limit depends on time, not on the packet
            if matched is Truth.UNKNOWN or isinstance(statement, Limit | ConnectionLimit | SetUpdate):
                surely = Truth.UNKNOWN
        return surely

    def _line(self, chain: str, depth: int, rule: Rule) -> Line:
        text = "" if rule.handle is None else self.texts.get((rule.table, rule.handle), "")
        counts = next((found for one in rule.statements if (found := self._counts(one))), None)
        line = Line(depth, sentence(rule), chain, text)
        return line if counts is None else replace(line, packets=counts[0], bytes=counts[1])

    def _counts(self, statement: Statement) -> tuple[int, int] | None:
        match statement:
            case Count(start):
                return start
            case NamedCounter(name):
                counter = self.table.objects.get(("counter", name))
                return counter.counts if isinstance(counter, CounterObject) else None
        return None

    def _leads(self, rule: Rule, depth: int) -> Iterator[Line]:
        """The chains that the rule leads to, below it."""
        for statement in rule.statements:
            if isinstance(statement, VerdictMap):
                for key, _, mapped in entries_of_map(self.table, statement, self.packet):
                    yield Line(depth + 1, f"{value_text(key)}: {verdict_text(mapped)}", rule.chain, "")
                    yield from self._target(mapped, depth + 2)
            else:
                yield from self._target(statement, depth + 1)

    def _target(self, statement: Statement | Value, depth: int) -> Iterator[Line]:
        match statement:
            case Decision(Verdict.JUMP | Verdict.GOTO, chain) if chain not in self.seen:
                self.seen.add(chain)
                yield from self._chain(chain, depth)


def _decides(rule: Rule) -> bool:
    verdicts = (decision_in(statement).verdict for statement in rule.statements)
    return any(verdict not in (Verdict.CONTINUE, Verdict.JUMP) for verdict in verdicts)


def _ends(lines: Sequence[Line]) -> bool:
    """The last rule of the chain itself takes everything."""
    own = [line for line in lines if line.depth == 1]
    return bool(own) and own[-1].text.startswith("everything: ") and "see " not in own[-1].text
