# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a packet that arrives at an interface: our loaded table, read from there. Pure.

The walk goes through the hooks in the kernel's order and leaves out what cannot meet such a packet. A rule
that depends on anything but the interface stays in, with its condition in words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agent.rules.delta import Body, Model, model_of
from agent.rules.describe import sentence, value_text, verdict_text
from agent.rules.gate import GATE
from agent.rules.listing import Entry, counts_of
from agent.rules.simulate import NEUTRAL, Answer, Packet, Verdict, applies, decision_in, entries_of_map

_HOOKS = {
    "prerouting": "when it arrives",
    "input": "if it is for the firewall itself",
    "forward": "if it is for somebody else",
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
    # what json.loads() makes is Json, and what was no entry of a table did not get as far as this
    added: tuple[Any, ...] = tuple({"add": {kind: body}} for kind, body in entries if kind != "metainfo")
    return model_of(added)


def show(entries: Sequence[Entry], texts: Mapping[tuple[str, int], str], interface: str | None) -> Shown:
    """`interface` None is a packet of whatever interface. `texts` as from rule_texts()."""
    table = model_of_listing(entries)
    walk = _Walk(table, texts, Packet(iifname=interface))
    lines = [line for hook in _HOOKS for chain in _base_chains(table, hook) for line in walk.base(chain)]
    if GATE not in table.chains:
        lines.insert(0, Line(0, "the gate is open: the policy decides", GATE))
    return Shown(interface, tuple(lines), _names(table))


def _base_chains(table: Model, hook: str) -> list[str]:
    found = [(body, name) for name, body in table.chains.items() if body.get("hook") == hook]
    return [name for _, name in sorted(found, key=lambda one: int(str(one[0].get("prio", 0))))]


def _names(table: Model) -> tuple[str, ...]:
    """Every name in a match or map by interfaces, and in the set `data`."""
    found: set[str] = set()
    for rules in table.rules.values():
        for rule in rules:
            found |= set(re.findall(r"'([A-Za-z0-9._-]{1,15})'", _of_interfaces(rule)))
    found |= {str(name) for name in table.elements.get(("set", "data"), [])}
    return tuple(sorted(found))


def _of_interfaces(rule: Body) -> str:
    expressions = rule.get("expr")
    texts = []
    for expression in expressions if isinstance(expressions, list) else []:
        match expression:
            case {"match": {"left": {"meta": {"key": "iifname" | "oifname"}}, "right": right}}:
                texts.append(repr(right["set"] if isinstance(right, Mapping) and "set" in right else right))
            case {"vmap": {"key": key, "data": data}} if "iifname" in repr(key):
                texts += re.findall(r"'concat': (\[[^]]*\])", repr(data))
                texts += [repr(name) for name in re.findall(r"\['([^']+)', {", repr(data))]
    return " ".join(texts)


@dataclass(slots=True)
class _Walk:
    table: Model
    texts: Mapping[tuple[str, int], str]
    packet: Packet
    seen: set[str] = field(default_factory=set)

    def base(self, chain: str) -> Iterator[Line]:
        body = self.table.chains[chain]
        hook = str(body.get("hook"))
        lines = list(self._chain(chain, 1))
        if not lines and body.get("policy", "accept") == "accept":
            return
        yield Line(0, f"{chain}: {_HOOKS[hook]} ({hook}, priority {body.get('prio')})", chain)
        yield from lines
        policy = "accept" if body.get("policy", "accept") == "accept" else "drop"
        if not _ends(lines):
            yield Line(1, f"everything else: {policy}", chain)

    def _chain(self, chain: str, depth: int) -> Iterator[Line]:
        for rule in self.table.rules.get(chain, []):
            surely = self._surely(rule)
            if surely is Answer.NO:
                continue
            yield self._line(chain, depth, rule)
            yield from self._leads(rule, depth)
            if surely is Answer.YES and _decides(rule):
                return

    def _surely(self, rule: Body) -> Answer:
        """Whether every packet of the interface meets the end of the rule; NO: none does."""
        surely = Answer.YES
        for expression in _expressions(rule):
            if decision_in(expression) is not NEUTRAL or "vmap" in expression:
                continue
            matched = applies(self.table, expression, self.packet)
            if matched is Answer.NO:
                return Answer.NO
            # a limit is a question of time, whatever the packet
            if matched is Answer.UNKNOWN or {"limit", "ct count", "set", "meter"} & set(expression):
                surely = Answer.UNKNOWN
        return surely

    def _line(self, chain: str, depth: int, rule: Body) -> Line:
        handle = rule.get("handle")
        text = self.texts.get((str(rule["table"]), handle), "") if isinstance(handle, int) else ""
        counts = counts_of(rule) or self._named_counts(rule)
        line = Line(depth, sentence(rule), chain, text)
        return line if counts is None else replace(line, packets=counts[0], bytes=counts[1])

    def _named_counts(self, rule: Body) -> tuple[int, int] | None:
        for expression in _expressions(rule):
            match expression:
                case {"counter": str(name)}:
                    body = self.table.objects.get(("counter", name), {})
                    packets, size = body.get("packets"), body.get("bytes")
                    if isinstance(packets, int) and isinstance(size, int):
                        return packets, size
        return None

    def _leads(self, rule: Body, depth: int) -> Iterator[Line]:
        """The chains that the rule leads to, below it."""
        for expression in _expressions(rule):
            if "vmap" in expression:
                vmap = expression["vmap"]
                for key, verdict in self._ways(vmap):
                    yield Line(depth + 1, f"{key}: {verdict_text(verdict)}", str(rule["chain"]), "")
                    yield from self._target(verdict, depth + 2)
            else:
                yield from self._target(expression, depth + 1)

    def _ways(self, vmap: object) -> Iterator[tuple[str, Mapping[str, object]]]:
        for key, _, verdict in entries_of_map(self.table, vmap, self.packet):
            yield value_text(key), verdict

    def _target(self, expression: Mapping[str, object], depth: int) -> Iterator[Line]:
        decision = decision_in(expression)
        if decision.verdict in (Verdict.JUMP, Verdict.GOTO) and decision.chain not in self.seen:
            self.seen.add(decision.chain)
            yield from self._chain(decision.chain, depth)


def _expressions(rule: Body) -> list[Mapping[str, object]]:
    expressions = rule.get("expr")
    listed = expressions if isinstance(expressions, list | tuple) else ()
    return [one for one in listed if isinstance(one, Mapping)]


def _decides(rule: Body) -> bool:
    verdicts = (decision_in(expression).verdict for expression in _expressions(rule))
    return any(verdict not in (Verdict.CONTINUE, Verdict.JUMP) for verdict in verdicts)


def _ends(lines: Sequence[Line]) -> bool:
    """The last rule of the chain itself takes everything."""
    own = [line for line in lines if line.depth == 1]
    return bool(own) and own[-1].text.startswith("everything: ") and "see " not in own[-1].text
