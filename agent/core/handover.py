# SPDX-License-Identifier: GPL-2.0-or-later
"""A planned handover: make before break. Pure.

    primary                                         backup
    asked: may I?            ------------------>    opens its gate, if it has all states and good rules
                             <------------------    open (or refused, and why)
    given: gives up the addresses, its gate stays open
                             <-- VRRP, prio 0 --    is primary by keepalived's own election
                             <------------------    says so in its status
    closes its gate a moment later

Each word is part of the status, so it is said again and again, and may be lost. The words only make the two
gates overlap: who is primary is decided by keepalived alone, and each node ends its part by itself after a
while. Nothing is lost then, since a packet is forwarded by whichever node its link-layer address leads to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.core.actions import Plan
from agent.core.conditions import Condition
from agent.core.peer import Heard, NodeStatus
from agent.core.plan import Settings, plan_end
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase, State
from agent.model.pair import SyncMode

ANSWER_S = 2.0
"""How long the peer may take to open its gate and say so."""
ANNOUNCED_S = 1.0
"""So long after the peer was heard as primary every host has heard where the addresses are now."""

AGAIN_S = 10.0
"""So long, and the time of a takeover, a backup waits until it opens its gate for another handover, whatever
the peer asks for."""

SETTLED_S = 3.0
"""A node whose role is newer may still be sending or getting states."""

_OF_PEER = frozenset(
    condition.value
    for condition in (
        Condition.KEEPALIVED,
        Condition.KEEPALIVED_STOPPED,
        Condition.INSTANCES,
        Condition.ORPHANED_ADDRESS,
        Condition.CONTRADICTION,
        Condition.CONNTRACKD,
        Condition.CONNTRACKD_SILENT,
        Condition.CONNTRACKD_UNCLEAR,
        Condition.REPLICATION,
        Condition.RULES,
        Condition.CONFIGURATION,
        Condition.SYNC_LINK,
        Condition.PEER_SILENT,
        Condition.FAULT,
        Condition.DEAF,
        Condition.MISSING_INTERFACE,
        Condition.TABLE_FULL,
        Condition.FOREIGN_DROPS,
        Condition.STALL,
    )
)
"""With one of these a backup may not take over, or not forward everything."""
_OWN = frozenset(
    condition.value
    for condition in (
        Condition.CONNTRACKD,
        Condition.CONNTRACKD_SILENT,
        Condition.LOST_EVENTS,
        Condition.SYNC_LINK,
        Condition.STATES_DIFFER,
        Condition.READINESS,
        Condition.BUS,
    )
)
"""With one of these the states are not whole at the peer, or this node does not move keepalived."""

_STATES = "connections that {peer} does not know break"
_PACKETS = "packets are lost until {peer} forwards"
_ALL = "if {peer} does not take over, all packets are lost until this node is primary again"
_UNHEARD = (
    "if that agent does not run, {peer} may become primary behind a closed gate, and all packets are lost "
    "until the agent is started; " + _ALL
)


@dataclass(frozen=True, slots=True)
class Objection:
    """`reason`: what speaks against a handover; `loss`: what one would cost nevertheless."""

    reason: str
    loss: str


def find_objections(
    own: NodeStatus,
    heard: Heard,
    names: tuple[str, str],
    sync: Mapping[str, str],
    mode: SyncMode,
    now_s: float,
) -> tuple[Objection, ...]:
    """What speaks against handing over now. `names`: of this node and of its peer; `sync`: the paths of the
    sync links, and what people call them."""
    peer = names[1]
    found = _of_peer(own, heard, names, sync, now_s)
    objections = [Objection(reason, loss.format(peer=peer)) for reason, loss in (*found, *_of_node(own))]
    if mode is SyncMode.CACHE:
        reason = f"in cache mode {peer} has the states outside its kernel until it is primary"
        objections.append(Objection(reason, _PACKETS.format(peer=peer)))
    return tuple(objections)


def find_objections_of_peer(
    own: NodeStatus,
    heard: Heard,
    names: tuple[str, str],
    sync: Mapping[str, str],
    mode: SyncMode,
    now_s: float,
) -> tuple[str, ...]:
    """What speaks against a handover of the peer, which is primary, to this node, as far as known here."""
    node, peer = names
    other = heard.status
    if other is None or heard.is_silent(now_s):
        return (f"the agent of {peer} is not heard",)
    if other.role is not Role.PRIMARY:
        return (f"{peer} is not primary but {other.role.value}",)
    seen = Heard(heard.paths, own, now_s, heard.since_s)
    objections = find_objections(other, seen, (peer, node), sync, mode, now_s)
    return tuple(one.reason.replace("this node", peer) for one in objections)


def find_objections_to_return(own: NodeStatus, node: str) -> tuple[str, ...]:
    """What would speak against a handover back to this node, which is primary, and has no cure in it."""
    found = [f"{node} is in maintenance {own.maintenance}"] if own.maintenance else []
    return (*found, *(f"{node} has the problem {name}" for name in sorted(_OF_PEER & {*own.problems})))


def _of_node(own: NodeStatus) -> Iterator[tuple[str, str]]:
    for name in sorted(_OWN & {*own.problems}):
        yield f"this node has the problem {name}", _STATES


def _of_peer(
    own: NodeStatus, heard: Heard, names: tuple[str, str], sync: Mapping[str, str], now_s: float
) -> Iterator[tuple[str, str]]:
    peer, other = names[1], heard.status
    if other is None or heard.is_silent(now_s):
        yield f"the agent of {peer} is not heard", _UNHEARD
        return
    if other.role is not Role.BACKUP:
        yield f"{peer} is not backup but {other.role.value}", _ALL
    for name, one in zip(names, (own, other), strict=True):
        if one.role_s < SETTLED_S:
            yield f"{name} is {one.role.value} for {one.role_s:.1f} s only", _STATES
    if other.maintenance:
        yield f"{peer} is in maintenance {other.maintenance}", _ALL
    if other.ready is not True:
        yield f"{peer} has not got all states yet", _STATES
    if set(sync) <= {*heard.silent_paths()}:
        yield f"{peer} is not heard by the sync link ({' or '.join(sync.values())})", _STATES
    if not other.rules:
        yield f"the rules of {peer} are not in force", _PACKETS
    elif other.rules != own.rules or other.pair_file != own.pair_file:
        yield f"{peer} has another pair file or other rules", "what the rules of {peer} do not allow is lost"
    for name in sorted(_OF_PEER & {*other.problems}):
        yield f"{peer} has the problem {name}", _ALL


def can_expect(settings: Settings, state: State) -> bool:
    """Whether this backup may open its gate before it is primary: it would serve as well as the primary."""
    return why_not_expected(settings, state) is None


def why_not_expected(settings: Settings, state: State) -> str | None:
    if state.role is not Role.BACKUP:
        return f"it is not backup but {state.role.value}"
    if settings.mode is not SyncMode.DIRECT:
        return "in cache mode the states are outside its kernel"
    if state.ready is not True:
        return "it has not got all states yet"
    if state.unclean:
        return "it has states of the time when both nodes were primary"
    if not state.whole or state.loaded is not RuleSet.BACKUP:
        return "its rules are not in force"
    return None


def why_refused(settings: Settings, state: State, asker: NodeStatus, opened_s: float) -> str | None:
    """`asker`: the peer, in the word in which it asks. `opened_s`: how long ago this gate was last opened
    for a handover of which nothing came."""
    if asker.role is not Role.PRIMARY or not asker.gate_open:
        return "the node that asks is not primary with an open gate"
    left_s = settings.takeover_s + AGAIN_S - opened_s
    if left_s > 0:
        return f"its gate was opened for a handover just before; it may be asked again in {left_s:.0f} s"
    return why_not_expected(settings, state)


def plan_last(settings: Settings, state: State) -> Plan:
    """What an agent leaves that ends: outside a handover, all as it is."""
    if state.phase not in (Phase.EXPECTING, Phase.HANDING):
        return ()
    return plan_end(settings, state.role, whole=state.whole, standing=state.standing)
