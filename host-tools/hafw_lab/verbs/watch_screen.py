# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw-lab watch` shows: both firewalls side by side, in at most 80 columns and 24 lines. Pure."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hafw_lab.client.lab import LabStatus, NodeStatus
from hafw_lab.terminal import clean


class Tone(Enum):
    PLAIN = "plain"
    HEAD = "head"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Key:
    """`order` is what watch.py does when it is pressed."""

    letter: str
    order: str
    text: str


KEYS = (
    Key("p", "power", "cut the primary's power"),
    Key("l", "link", "pull the primary's first link"),
    Key("k", "keepalived", "kill the primary's keepalived"),
    Key("c", "conntrackd", "kill the backup's conntrackd"),
    Key("h", "heal", "repair everything"),
    Key("q", "quit", "leave; the lab continues"),
)
_LABEL = 13


def draw(status: LabStatus, said: Sequence[str], *, width: int, height: int, now: str) -> list[Line]:
    """`said` are the last things that were done, the newest last; what does not fit is left out."""
    pair = [node for node in status.nodes if node.firewall]
    column = max(16, (min(width, 100) - _LABEL) // max(1, len(pair)))
    lines = [
        Line(f"lab {status.name}   primary: {status.primary or 'none'}   {now}", _tone_of(status)),
        Line("-" * min(width, 100)),
        Line(_row("", [node.name for node in pair], column), Tone.HEAD),
    ]
    rows = _rows(status, pair)
    lines += [
        Line(_row(label, values, column), Tone.BAD if label == "problems" and any(values) else Tone.PLAIN)
        for label, values in rows
    ]
    lines += [Line(text) for text in _whole(rows, pair, column, min(width, 100))]
    keys = [f"{key.letter}  {key.text}" for key in KEYS]
    half = (len(keys) + 1) // 2
    foot = [Line(f"{a:<38}{b}") for a, b in zip(keys[:half], [*keys[half:], ""], strict=False)]
    room = height - len(lines) - len(foot) - 2
    shown = [Line(f"> {clean(text)}") for text in said[-room:]] if room > 0 else []
    body = [*lines, Line(""), *shown]
    whole = [*body[: height - len(foot)], *foot]
    return [Line(line.text[:width].rstrip(), line.tone) for line in whole[:height]]


def _tone_of(status: LabStatus) -> Tone:
    return Tone.BAD if status.primary is None else Tone.GOOD


def _row(label: str, values: Sequence[str], column: int) -> str:
    return label.ljust(_LABEL) + "".join(value[: column - 1].ljust(column) for value in values)


def _whole(
    rows: Sequence[tuple[str, list[str]]], pair: Sequence[NodeStatus], column: int, width: int
) -> Iterator[str]:
    """Below the table, what does not fit into its columns."""
    for label, values in rows:
        for node, value in zip(pair, values, strict=True):
            if len(value) >= column:
                yield from textwrap.wrap(
                    f"{node.name} {label}: {value}", width, subsequent_indent="  ", break_on_hyphens=False
                )


def _rows(status: LabStatus, pair: Sequence[NodeStatus]) -> list[tuple[str, list[str]]]:
    agents = {node.name: node.agent for node in pair}
    labels: dict[str, Callable[[NodeStatus], str]] = {
        "power": lambda node: "on" if node.alive else "OFF",
        "links": _links,
        "services": _services,
        "role": lambda node: _say(node.agent, "role") + _seconds(node.agent),
        "addresses": lambda node: " ".join(node.vips) or "none",
        "gate": lambda node: _say(node.agent, "gate"),
        "rules": _rules,
        "kernel": lambda node: _states(node.agent, "kernel"),
        "int. cache": lambda node: _states(node.agent, "internal_cache"),
        "from peer": _from_peer,
        "sync lag": lambda node: _lag(node, status, agents),
        "last": _last,
        "problems": lambda node: ", ".join((node.agent or {}).get("problems", ())),
    }
    return [(label, [say(node) for node in pair]) for label, say in labels.items()]


def _links(node: NodeStatus) -> str:
    return " ".join(name if up else f"{name}:DOWN" for name, up in node.links.items())


def _services(node: NodeStatus) -> str:
    stopped = [name for name, service in node.services.items() if not service.running]
    return f"not running: {' '.join(stopped)}" if stopped else "all run" if node.services else "-"


def _say(agent: Mapping[str, Any] | None, name: str) -> str:
    return str(agent[name]) if agent and name in agent else "-"


def _seconds(agent: Mapping[str, Any] | None) -> str:
    seconds = (agent or {}).get("role_seconds")
    return f", {seconds:.0f} s" if isinstance(seconds, int | float) else ""


def _states(agent: Mapping[str, Any] | None, name: str) -> str:
    value = (agent or {}).get("states", {}).get(name)
    return f"{value:,}" if isinstance(value, int) else "-"


def _rules(node: NodeStatus) -> str:
    rules = (node.agent or {}).get("rules", {})
    if "error" in rules:
        return "cannot be read"
    return f"{rules.get('loaded')}{'' if rules.get('intact') else ', NOT intact'}" if rules else "-"


def _from_peer(node: NodeStatus) -> str:
    """What the node could continue with if it had to take over now."""
    states = (node.agent or {}).get("states", {})
    direct = states.get("mode") == "direct"
    return _states(node.agent, "injected" if direct else "external_cache")


def _lag(node: NodeStatus, status: LabStatus, agents: Mapping[str, Mapping[str, Any] | None]) -> str:
    """How many states the primary has that this backup has not."""
    primary = agents.get(status.primary or "")
    if node.name == status.primary or not primary or not node.agent:
        return "-"
    there = primary.get("states", {}).get("internal_cache")
    states = node.agent.get("states", {})
    here = states.get("kernel" if states.get("mode") == "direct" else "external_cache")
    if not isinstance(there, int) or not isinstance(here, int):
        return "-"
    return f"{max(0, there - here):,} states"


def _last(node: NodeStatus) -> str:
    last = (node.agent or {}).get("last_transition")
    if not last:
        return "-"
    took_ms = last.get("duration_ms")
    took = f" {took_ms:.1f} ms" if isinstance(took_ms, int | float) else ""
    return f"{last['from']}>{last['to']} {last['result']}{took}"
