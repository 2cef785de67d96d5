"""What `hafw status` says: a picture of the agent as plain values, for people and as JSON."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from agent.adapters.conntrackd import Conntrackd, kernel_states
from agent.adapters.nftables import RulesState
from agent.core.conditions import severity_of
from agent.core.plan import refresh_after_s
from agent.core.roles import Role, RuleSet, rules_of
from agent.core.state import Phase
from agent.errors import HafwError, OvertakenError
from agent.loop import Loop
from agent.observer import Observer
from agent.pair import Pair, SyncMode
from agent.records import to_fields

SCHEMA = 1
STATISTICS_LIMIT_S = 2.0
"""A conntrackd that is busy with a bulk answers late; a status is wanted soon."""
LOOKS = 3
Values = dict[str, Any]
Look = Callable[[RuleSet], Awaitable[RulesState]]


async def describe(
    pair: Pair,
    node: str,
    loop: Loop,
    observer: Observer,
    conntrackd: Conntrackd,
    look: Look,
) -> Values:
    """Everything that can be read now; what cannot be read says why. `look`: at the rules, and whether they
    are those of a role."""
    states = await _describe_states(pair, conntrackd, loop)
    rules = await _describe_rules(loop, look)
    state = loop.state
    return {
        "schema": SCHEMA,
        "pair": pair.name,
        "node": node,
        "peer": pair.peer_of(node).name,
        "role": state.role.value,
        "role_seconds": round((time.monotonic_ns() - loop.role_since_ns) / 1e9, 1),
        "phase": state.phase.value,
        "gate": "open" if state.phase is Phase.SERVING else "closed",
        "unwell": sorted(condition.value for condition in state.unwell),
        "problems": {condition.value: text for condition, text in state.problems.items()},
        "keepalived": _describe_keepalived(observer),
        "ready": state.ready,
        "rules": rules,
        "states": states,
        "last_transition": _describe_transition(loop),
    }


def _describe_keepalived(observer: Observer) -> Values:
    seen = observer.seen
    return {
        "alive": seen.facts.alive if seen else False,
        "addresses": sorted(seen.facts.held) if seen else [],
        "orphaned": sorted(seen.facts.orphaned) if seen else [],
        "bus": "heard" if observer.bus.owned else "connected" if observer.bus.connected else "not there",
        "bus_states": sorted(state.name for state in observer.bus.states()),
    }


async def _describe_rules(loop: Loop, look: Look) -> Values:
    for _ in range(LOOKS):
        found = await _look_at_rules(rules_of(loop.state.role), look)
        if found is not None:
            return found
    return {"wanted": rules_of(loop.state.role).value, "error": "the rules change faster than they are read"}


async def _look_at_rules(wanted: RuleSet, look: Look) -> Values | None:
    """None when they were changed meanwhile."""
    try:
        found = await look(wanted)
    except OvertakenError:
        return None
    except HafwError as error:
        return {"wanted": wanted.value, "error": str(error)}
    return {
        "wanted": wanted.value,
        "loaded": found.rules.value if found.rules else None,
        "hash": found.digest,
        "intact": found.drift is None,
        "drift": found.drift,
        "counters": {counter.name: counter.packets for counter in found.counters},
    }


async def _describe_states(pair: Pair, conntrackd: Conntrackd, loop: Loop) -> Values:
    direct = pair.sync.mode is SyncMode.DIRECT
    refresh_s = refresh_after_s(loop.settings, loop.state.states) if direct else None
    found: Values = {"mode": pair.sync.mode.value, "kernel": None, "refresh_seconds": refresh_s}
    try:
        found["kernel"] = kernel_states()
        statistics = await conntrackd.statistics(STATISTICS_LIMIT_S)
    except HafwError as error:
        return {**found, "error": str(error)}
    return {
        **found,
        "internal_cache": statistics.internal,
        "external_cache": statistics.external,
        "injected": statistics.injected,
        "inject_failed": statistics.inject_failed,
        "bytes_from_peer": statistics.bytes_received,
        "lost_messages": statistics.lost_messages,
        "malformed_messages": statistics.malformed_messages,
    }


def _describe_transition(loop: Loop) -> Values | None:
    transition = loop.transition
    if transition is None:
        return None
    closed = to_fields(transition.closed) if transition.closed else None
    return {
        "id": transition.identity,
        "from": transition.before.value,
        "to": transition.seen.role.value,
        "trigger": transition.seen.trigger,
        "result": closed["result"] if closed else "at work",
        "duration_ms": closed["duration_ms"] if closed else None,
        "doubt": transition.doubt,
        "steps": [to_fields(step) for step in transition.steps],
    }


def exit_status(values: Values) -> int:
    """As monitoring plug-ins have it: 0 well, 1 warning, 2 critical, 3 unknown. A healthy backup is well."""
    rules = values["rules"]
    if not rules.get("intact", False) or (
        values["role"] == Role.PRIMARY.value and values["gate"] == "closed"
    ):
        return 2
    out = values["role"] in (Role.FAULT.value, Role.STOPPED.value)
    return max((int(severity_of(name)) for name in values["unwell"]), default=int(out))


def to_text(values: Values) -> str:
    """A screen for people."""
    states, rules, keepalived = values["states"], values["rules"], values["keepalived"]
    unwell = ", ".join(values["unwell"]) or "nothing"
    addresses = ", ".join(keepalived["addresses"]) or "none"
    alive = "running" if keepalived["alive"] else "not running"
    lines = [
        f"{values['node']} of pair {values['pair']}: {values['role']} for {values['role_seconds']:g} s, "
        f"gate {values['gate']}",
        f"  unwell      {unwell}",
        *(f"              {name}: {text}" for name, text in sorted(values.get("problems", {}).items())),
        f"  keepalived  {alive}, virtual addresses here: {addresses}",
        f"  bus         {keepalived['bus']} {' '.join(keepalived['bus_states'])}".rstrip(),
        f"  readiness   {_READINESS[values.get('ready')]}",
        f"  rules       {_rules_text(rules)}",
        f"  states      {_states_text(states)}",
    ]
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


_READINESS = {
    True: "keepalived is told that the states are in",
    False: "keepalived is told that the states are not in: the peer is preferred",
    None: "keepalived was told nothing yet",
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
    again = f"the primary sends all again every {refresh:g} s, " if refresh is not None else ""
    return (
        f"{states['mode']} mode: kernel {states['kernel']}, internal cache {states['internal_cache']}, "
        f"{peer}, {again}"
        f"{states['bytes_from_peer']} bytes from the peer, {states['lost_messages']} messages lost"
    )
