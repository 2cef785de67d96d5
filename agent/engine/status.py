# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent says to `hafw status`: a picture of itself as plain values."""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from typing import Any

from agent.adapters.conntrackd import Conntrackd, kernel_states
from agent.adapters.nftables import RulesState
from agent.core.peer import Heard, NodeStatus
from agent.core.plan import refresh_after_s
from agent.core.roles import RuleSet
from agent.engine.loop import Loop
from agent.engine.observer import Observer
from agent.errors import HafwError, OvertakenError
from agent.model import schema
from agent.model.pair import IPInterface, Pair, SyncMode
from agent.model.records import to_fields
from agent.render.conntrackd import ignored_addresses

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
    own: NodeStatus,
    heard: Heard,
    compared: str,
) -> Values:
    """Everything that can be read now; what cannot be read says why. `look`: at the rules, and whether they
    are those of a role. `compared`: what the last comparison of the states has found."""
    states = {**await _describe_states(pair, conntrackd, loop), "compared": compared or None}
    rules = await _describe_rules(loop, look)
    state = loop.state
    return {
        "schema": schema.STATUS,
        "pair": pair.name,
        "node": node,
        "peer": pair.peer_of(node).name,
        "role": state.role.value,
        "role_seconds": round((time.monotonic_ns() - loop.log.role_since_ns) / 1e9, 1),
        "phase": state.phase.value,
        "gate": "open" if state.phase.is_open else "closed",
        "problems": {condition.value: text for condition, text in state.problems.items()},
        "keepalived": _describe_keepalived(observer),
        "ready": state.ready,
        "rules": rules,
        "states": states,
        "last_transition": _describe_transition(loop),
        "nodes": {
            node: _describe_node(own),
            pair.peer_of(node).name: _describe_heard(heard, time.monotonic()),
        },
    }


def describe_links(pair: Pair, node: str) -> Values:
    """For a drill: where the virtual addresses are, and all addresses of the firewalls themselves."""
    peer = pair.peer_of(node).name

    def texts(addresses: Iterable[IPInterface]) -> list[str]:
        return [str(one.ip) for one in addresses]

    links = [
        {
            "interface": one.name,
            "vips": texts(one.vips),
            "own": texts(one.own(node)),
            "peer": texts(one.own(peer)),
        }
        for one in pair.data_interfaces
        if one.vips
    ]
    return {"links": links, "firewalls": texts(ignored_addresses(pair))}


def _describe_heard(heard: Heard, now_s: float) -> Values | None:
    """The peer, in its own words. None when nothing was ever heard of it."""
    if heard.status is None:
        return None
    return {**_describe_node(heard.status), "heard_seconds_ago": round(now_s - heard.at_s, 1)}


def _describe_node(one: NodeStatus) -> Values:
    handover = one.handover and {**asdict(one.handover), "step": one.handover.step.value}
    return {
        **asdict(one),
        "role": one.role.value,
        "gate": "open" if one.gate_open else "closed",
        "handover": handover,
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
        found = await _look_at_rules(loop.state.wanted, look)
        if found is not None:
            return found
    return {
        "wanted": loop.state.wanted.value,
        "error": "the rules change faster than they are read",
    }


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
    refresh_s = refresh_after_s(loop.settings, loop.state.kernel, loop.state.touched) if direct else None
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
    transition = loop.log.current
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
