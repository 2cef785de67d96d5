# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's trace of one packet, in words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.rules.describe import sentence
from agent.rules.objects import FAMILY, TABLES, Rule
from agent.rules.statements import TRANSLATING, Raw, Translate


@dataclass(frozen=True, slots=True)
class Event:
    """One rule or policy that a packet reached. `kind`: rule, policy or return."""

    kind: str
    family: str
    table: str
    chain: str
    handle: int | None
    verdict: str
    target: str | None = None

    @property
    def is_ours(self) -> bool:
        return self.family == FAMILY and self.table in TABLES


RulesByPlace = Mapping[tuple[str, str, int], Rule]
"""Rules as nft lists them, by family, table and handle."""


@dataclass(frozen=True, slots=True)
class Traced:
    """`verdict`: accept or drop; None when the packet came to no forward, input or output hook at all."""

    verdict: str | None
    reason: str
    steps: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        return {"schema": 1, "verdict": self.verdict, "reason": self.reason, "steps": list(self.steps)}

    def text(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.steps, 1)]
        return "".join(f"{line}\n" for line in (*lines, f"{self.verdict or 'no verdict'}: {self.reason}"))


def explain(events: Sequence[Event], rules: RulesByPlace, deciding: Sequence[str]) -> Traced:
    """`deciding`: our base chains of the hooks forward and input."""
    # a rule without a number is the end of a chain
    seen = [
        event
        for event in events
        if event.table != "hafw-trace"
        and not (event.verdict == "continue" and _find_rule(event, rules) is None)
    ]
    steps = tuple(_step(event, rules) for event in seen)
    dropped = next((event for event in seen if event.verdict == "drop"), None)
    if dropped is not None:
        return Traced("drop", _step(dropped, rules), steps)
    entered = any(event.is_ours and event.chain in deciding for event in seen)
    if not entered:
        reason = "no chain decided on it: this node has no route for it"
        return Traced(None, reason, steps)
    accepting = [event for event in seen if event.verdict == "accept" and event.is_ours]
    decided = [event for event in accepting if not _translates(event, rules) and event.kind == "rule"]
    reason = _step(decided[-1], rules) if decided else "no rule was against it"
    translated = [_step(event, rules) for event in seen if _translates(event, rules)]
    return Traced("accept", "; then ".join((reason, *translated)), steps)


def _translates(event: Event, rules: RulesByPlace) -> bool:
    rule = _find_rule(event, rules)
    return rule is not None and any(
        isinstance(one, Translate) or (isinstance(one, Raw) and one.kind in TRANSLATING)
        for one in rule.statements
    )


def _find_rule(event: Event, rules: RulesByPlace) -> Rule | None:
    if event.kind != "rule" or event.handle is None:
        return None
    return rules.get((event.family, event.table, event.handle))


def _step(event: Event, rules: RulesByPlace) -> str:
    place = f"chain {event.chain}"
    if not event.is_ours:
        place = f"table {event.family} {event.table} (not ours), {place}"
    if event.kind == "policy":
        return f"{place}: default: {event.verdict}"
    if event.kind == "return":
        return f"{place}: end"
    rule = _find_rule(event, rules)
    outcome = f" -> {event.target}" if event.target else ""
    return f"{place}: {sentence(rule) if rule else 'a rule: ' + event.verdict}{outcome}"
