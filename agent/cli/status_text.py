# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw status` makes of what the agent says of itself: a screen, and an exit status. Pure.

`hafw status` loads these alone: the agent's own parts take ten times as long to load as they do.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from agent.core.conditions import severity_of
from agent.core.roles import Role

Values = dict[str, Any]


def exit_status(values: Values) -> int:
    """As monitoring plug-ins have it: 0 OK, 1 warning, 2 critical, 3 unknown. A healthy backup is OK."""
    rules = values["rules"]
    if not rules.get("intact", False) or (
        values["role"] == Role.PRIMARY.value and values["gate"] == "closed"
    ):
        return 2
    out = values["role"] in (Role.FAULT.value, Role.STOPPED.value)
    return max((int(severity_of(name)) for name in values["problems"]), default=int(out))


def to_text(values: Values) -> str:
    """A screen for people."""
    states, rules, keepalived = values["states"], values["rules"], values["keepalived"]
    problems = ", ".join(sorted(values["problems"])) or "none"
    addresses = ", ".join(keepalived["addresses"]) or "none"
    alive = "running" if keepalived["alive"] else "not running"
    lines = [
        f"{values['node']} of pair {values['pair']}: {values['role']} for {values['role_seconds']:g} s, "
        f"gate {values['gate']}",
        f"  problems    {problems}",
        *(f"              {name}: {text}" for name, text in sorted(values["problems"].items())),
        f"  keepalived  {alive}, virtual addresses here: {addresses}",
        f"  bus         {keepalived['bus']} {' '.join(keepalived['bus_states'])}".rstrip(),
        f"  readiness   {_READINESS[values.get('ready')]}",
        f"  rules       {_rules_text(rules)}",
        f"  states      {_states_text(states)}",
        *((f"              {states['compared']}",) if states.get("compared") else ()),
    ]
    lines += _pair_lines(values)
    last = values["last_transition"]
    if last:
        took = f" in {last['duration_ms']:.1f} ms" if last["duration_ms"] is not None else ""
        lines.append(
            f"  last        {last['from']} -> {last['to']} ({last['trigger']}): {last['result']}{took}"
        )
        if last.get("doubt"):
            lines.append(f"              states may be missing: {last['doubt']}")
        lines += [
            f"              {step['duration_ms']:9.1f} ms  {step['message']}" for step in last["steps"]
        ]
    return "\n".join(lines)


def _pair_lines(values: Values) -> list[str]:
    """Both nodes side by side, each in its own words."""
    nodes = values.get("nodes") or {}
    other = nodes.get(values["peer"])
    if other is None:
        return [f"  pair        nothing was heard from the agent of {values['peer']} yet"]
    own, ago_s = nodes[values["node"]], other["heard_seconds_ago"]
    heads = (f"{values['node']} (this node)", f"{values['peer']} ({ago_s:g} s ago)")
    rows = [("pair", heads), *((name, (_of_node(own, name), _of_node(other, name))) for name in _ROWS)]
    # for a day of a year
    rows = [row for row in rows if row[0] != _MAINTENANCE or row[1] != (_TAKES_PART, _TAKES_PART)]
    width = max(len(left) for _, (left, _) in rows)
    return [f"  {name:<11} {left:<{width}}  {right}".rstrip() for name, (left, right) in rows]


def _of_node(node: Values, name: str) -> str:
    found = _ROWS[name](node)
    return found or "unknown"


_MAINTENANCE, _TAKES_PART = "maintenance", "no"
_READY = {True: "yes", False: "no", None: "unknown"}
_ROWS: dict[str, Callable[[Values], str]] = {
    "role": lambda one: f"{one['role']} for {one['role_s']:g} s",
    "gate": lambda one: str(one["gate"]),
    _MAINTENANCE: lambda one: str(one["maintenance"]) or _TAKES_PART,
    "problems": lambda one: ", ".join(one["problems"]) or "none",
    "keepalived": lambda one: " ".join(one["keepalived"]),
    "ready": lambda one: _READY[one["ready"]],
    "states": lambda one: ", ".join(f"{name} {count}" for name, count in sorted(one["states"].items())),
    "pair file": lambda one: str(one["pair_file"]),
    "rules": lambda one: str(one["rules"]),
    "generation": lambda one: "" if one["generation"] is None else str(one["generation"]),
    "clock": lambda one: _moment_of(one["clock_s"]),
    "versions": lambda one: ", ".join(f"{name} {text}" for name, text in sorted(one["versions"].items())),
    "heard by": lambda one: ", ".join(one["heard"]) or "no path",
}


def _moment_of(clock_s: float) -> str:
    """The peer may say any number."""
    try:
        return f"{datetime.fromtimestamp(clock_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return ""


_READINESS = {
    True: "the states are reported ready to keepalived",
    False: "the states are reported missing to keepalived: it prefers the peer",
    None: "nothing reported to keepalived yet",
}


def _rules_text(rules: Values) -> str:
    if "error" in rules:
        return str(rules["error"])
    counters = ", ".join(f"{name} {packets}" for name, packets in sorted(rules["counters"].items()))
    intact = "intact" if rules["intact"] else rules["drift"]
    return f"{rules['loaded']}, hash {rules['hash']}, {intact}; dropped: {counters}"


def _states_text(states: Values) -> str:
    if "error" in states:
        return f"kernel {states['kernel']}; {states['error']}"
    peer = (
        f"injected {states['injected']}"
        if states["mode"] == "direct"
        else f"external cache {states['external_cache']}"
    )
    refresh = states.get("refresh_seconds")
    again = f"the primary sends what would run out every {refresh:g} s, " if refresh is not None else ""
    return (
        f"{states['mode']} mode: kernel {states['kernel']}, internal cache {states['internal_cache']}, "
        f"{peer}, {again}"
        f"{states['bytes_from_peer']} bytes from the peer, {states['lost_messages']} messages lost"
    )
