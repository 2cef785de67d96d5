# SPDX-License-Identifier: GPL-2.0-or-later
"""What a table does with a packet, as far as the packet is known. Pure.

Live packets are decided by the kernel (`hafw rules trace`); this one can be asked about ten
thousand connections at once, and about "whatever arrives at eth1". A match that depends on what is not
known, or that is not understood here, is UNKNOWN, and so is the verdict behind it.

Limits are taken as not used up.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

from agent.model.pair import IPAddress
from agent.rules.delta import Model
from agent.rules.objects import Map, Rule, Set
from agent.rules.statements import (
    ORIGINAL,
    TRANSLATING,
    Bits,
    Concat,
    ConnectionLimit,
    Count,
    Ct,
    Decision,
    Fib,
    Helper,
    Limit,
    Log,
    Masked,
    Match,
    Meta,
    NamedCounter,
    NamedSet,
    Notrack,
    OneOf,
    Payload,
    Prefix,
    Range,
    Raw,
    Reject,
    SetUpdate,
    Statement,
    Translate,
    Value,
    Verdict,
    VerdictMap,
)


class Truth(Enum):
    """Whether something holds for a packet."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()


class NoValue(Enum):
    """What a field of a packet is that has no value here."""

    UNKNOWN = auto()
    ABSENT = auto()
    """The packet has no such field: it is equal to no value, and not different either."""


FORBIDDING = frozenset({Verdict.DROP, Verdict.REJECT})
_NEUTRAL = Decision(Verdict.CONTINUE)
_UNDECIDED = Decision(Verdict.UNKNOWN)

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ospf": 89,
    "vrrp": 112,
    "sctp": 132,
    "udplite": 136,
}
_ECHO_REQUEST = {8, 128}
_PORTED = {"tcp": 6, "udp": 17, "dccp": 33, "sctp": 132, "udplite": 136}
_FINAL = frozenset({Verdict.ACCEPT, Verdict.DROP, Verdict.REJECT})
_SILENT = (Count, NamedCounter, Log, Helper, Notrack, Translate)
_SILENT_RAW = frozenset({"comment", "counter", "log", "mangle", *TRANSLATING})
_DECIDING_RAW = frozenset({"accept", "drop", "goto", "jump", "queue", "reject", "return", "vmap"})
MAX_JUMPS = 32
"""The kernel allows 16; another program's chain could loop."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection, unless `ct_state` says otherwise. None is: not known."""

    iifname: str | None = None
    oifname: str | None = None
    saddr: IPAddress | None = None
    daddr: IPAddress | None = None
    protocol: int | None = None
    sport: int | None = None
    dport: int | None = None
    """For ICMP its type."""
    ct_state: str | None = None
    translated: Truth = Truth.UNKNOWN
    """Whether the destination was rewritten."""
    asked: IPAddress | None = None
    """The destination and its port as they were when the connection came in."""
    asked_port: int | None = None

    @property
    def version(self) -> int | None:
        address = self.saddr or self.daddr
        return address.version if address else None


Known: TypeAlias = "IPAddress | int | str | tuple[Known, ...] | NoValue"
"""What a packet has in a field."""


def verdict_of(table: Model, chain: str, packet: Packet) -> Verdict:
    """What the base chain `chain` says of `packet`: accept, drop, reject, or undecided."""
    found = _walk(table, chain, packet, MAX_JUMPS)
    if found is Verdict.CONTINUE:
        base = table.chains.get(chain)
        return Verdict(base.hook.policy) if base and base.hook else Verdict.ACCEPT
    return found


def _walk(table: Model, chain: str, packet: Packet, left: int) -> Verdict:
    """CONTINUE when `packet` comes out at the end of the chain."""
    if left == 0:
        return Verdict.UNKNOWN
    for rule in table.rules.get(chain, []):
        decision = _decision_of(table, rule, packet)
        match decision.verdict:
            case Verdict.CONTINUE:
                continue
            case Verdict.RETURN:
                return Verdict.CONTINUE
            case Verdict.JUMP | Verdict.GOTO:
                found = _walk(table, decision.chain, packet, left - 1)
                if found is not Verdict.CONTINUE or decision.verdict is Verdict.GOTO:
                    return found
            case verdict:
                return verdict if verdict in _FINAL else Verdict.UNKNOWN
    return Verdict.CONTINUE


def _decision_of(table: Model, rule: Rule, packet: Packet) -> Decision:
    """What one rule says."""
    matched = Truth.YES
    for statement in rule.statements:
        if isinstance(statement, VerdictMap):
            decision = _look_up(table, statement, packet)
        else:
            decision = decision_in(statement)
            matched = _both(matched, applies(table, statement, packet)) if decision is _NEUTRAL else matched
        if matched is Truth.NO:
            return _NEUTRAL
        if decision is not _NEUTRAL:
            return decision if matched is Truth.YES else _UNDECIDED
    return _NEUTRAL


def decision_in(statement: Statement | Value) -> Decision:
    """The verdict that `statement` is; CONTINUE when it is none."""
    match statement:
        case Decision():
            return statement
        case Reject():
            return Decision(Verdict.REJECT)
        case Raw() if statement.kind in _DECIDING_RAW:
            return _UNDECIDED
    return _NEUTRAL


def _look_up(table: Model, vmap: VerdictMap, packet: Packet) -> Decision:
    for _, matched, mapped in entries_of_map(table, vmap, packet):
        return decision_in(mapped) if matched is Truth.YES else _UNDECIDED
    return _NEUTRAL


def entries_of_map(
    table: Model, vmap: VerdictMap, packet: Packet
) -> list[tuple[Value, Truth, Statement | Value]]:
    """Every key and verdict of a map that `packet` may get, with whether it does: YES or UNKNOWN."""
    value = _value(vmap.key, packet)
    found = [(key, _equal(table, value, key), mapped) for key, mapped in _map_entries(table, vmap)]
    return [entry for entry in found if entry[1] is not Truth.NO]


def _map_entries(table: Model, vmap: VerdictMap) -> tuple[tuple[Value, Statement | Value], ...]:
    if not isinstance(vmap.entries, NamedSet):
        return vmap.entries
    named = table.objects.get(("map", vmap.entries.name))
    return named.entries if isinstance(named, Map) else ()


def applies(table: Model, statement: Statement, packet: Packet) -> Truth:
    """Whether a statement lets the rule continue with `packet`."""
    match statement:
        case Match():
            return _matches(table, statement, packet)
        case Limit() | ConnectionLimit():
            return _truth(not statement.over)
        case SetUpdate():
            return _all(applies(table, one, packet) for one in statement.limits)
        case Raw(json={"quota": {**quota}}):
            return _truth(not quota.get("inv", False))
        case Raw():
            return Truth.YES if statement.kind in _SILENT_RAW else Truth.UNKNOWN
    return Truth.YES if isinstance(statement, _SILENT) else Truth.UNKNOWN


def _matches(table: Model, asked: Match, packet: Packet) -> Truth:
    if asked.value == "confirmed" and packet.ct_state == "new":
        return Truth.NO
    value = _value(asked.field, packet)
    if value is NoValue.ABSENT:
        return Truth.NO
    equal = _equal(table, value, asked.value)
    match asked.operator:
        case "==" | "in":
            return equal
        case "!=" if equal is not Truth.UNKNOWN:
            return _truth(equal is Truth.NO)
    return Truth.UNKNOWN


def _value(field: Value, packet: Packet) -> Known:
    match field:
        case Meta(key):
            return _meta(key, packet)
        case Payload(protocol, name):
            return _payload(protocol, name, packet)
        case Ct():
            return _ct(field, packet)
        case Masked(inner, _):
            return _value(inner, packet)
        case Fib(result="type"):
            # and to be no address of this node
            return "unicast"
        case Fib():
            # no routes here: a source is taken to live where its packets come from
            return True
        case Concat(parts):
            return tuple(_value(part, packet) for part in parts)
    return NoValue.UNKNOWN


def _ct(field: Ct, packet: Packet) -> Known:
    match field:
        case Ct("state"):
            return _known(packet.ct_state)
        case Ct("ip daddr" | "ip6 daddr" as key, direction) if direction == ORIGINAL:
            other = packet.version not in (None, 4 if key == "ip daddr" else 6)
            return NoValue.ABSENT if other else _known(packet.asked)
        case Ct("proto-dst", direction) if direction == ORIGINAL:
            return _known(packet.asked_port)
        case Ct("status") if packet.translated is not Truth.UNKNOWN:
            return "dnat" if packet.translated is Truth.YES else ""
    return NoValue.UNKNOWN


def _known(field: IPAddress | int | str | None) -> Known:
    return NoValue.UNKNOWN if field is None else field


def _meta(key: str, packet: Packet) -> Known:
    match key:
        case "iifname":
            return _known(packet.iifname)
        case "oifname":
            return _known(packet.oifname)
        case "l4proto":
            return _known(packet.protocol)
        case "nfproto" if packet.version:
            return f"ipv{packet.version}"
    return NoValue.UNKNOWN


def _payload(protocol: str, name: str, packet: Packet) -> Known:
    if protocol in ("ip", "ip6"):
        if packet.version is not None and packet.version != (4 if protocol == "ip" else 6):
            return NoValue.ABSENT
        return _field(name, ("saddr", "daddr"), packet)
    if protocol == "th":
        has_ports = packet.protocol is None or packet.protocol in _PORTED.values()
        return _field(name, ("sport", "dport") if has_ports else (), packet)
    if packet.protocol is not None and packet.protocol != PROTOCOLS.get(protocol, packet.protocol):
        return NoValue.ABSENT
    if protocol in ("icmp", "icmpv6") and name == "type":
        return _known(packet.dport)
    if (protocol, name) == ("tcp", "flags") and packet.ct_state == "new":
        return "syn"
    return _field(name, ("sport", "dport") if protocol in _PORTED else (), packet)


def _field(name: str, there: Collection[str], packet: Packet) -> Known:
    return _known(getattr(packet, name)) if name in there else NoValue.UNKNOWN


def _equal(table: Model, value: Known, wanted: Value) -> Truth:
    """Whether `value` is what is `wanted`, which may be a set of things."""
    match wanted:
        case NamedSet(name):
            return _in_named(table, value, name)
        case OneOf(values):
            return _any(_equal(table, value, one) for one in values)
        case Concat(parts) if isinstance(value, tuple) and len(value) == len(parts):
            return _all(_equal(table, one, part) for one, part in zip(value, parts, strict=True))
    if value is NoValue.ABSENT:
        return Truth.NO
    if value is NoValue.UNKNOWN or isinstance(value, tuple):
        return Truth.UNKNOWN
    return _equal_to_one(value, wanted)


def _in_named(table: Model, value: Known, name: str) -> Truth:
    if name in table.moving:
        return Truth.UNKNOWN
    match table.objects.get(("set", name)) or table.objects.get(("map", name)):
        case Set() as found:
            return _any(_equal(table, value, one) for one in found.elements)
        case Map() as found:
            return _any(_equal(table, value, key) for key, _ in found.entries)
    return Truth.UNKNOWN


def _equal_to_one(value: IPAddress | int | str | NoValue, wanted: Value) -> Truth:
    match value, wanted:
        case IPv4Address() | IPv6Address(), Prefix(address, length):
            network = ip_network(f"{address}/{length}", strict=False)
            return _truth(value.version == network.version and value in network)
        case IPv4Address() | IPv6Address(), Range(str(first), str(last)):
            low, high = ip_address(first), ip_address(last)
            return _truth(value.version == low.version and low.packed <= value.packed <= high.packed)
        case IPv4Address() | IPv6Address(), str() if _is_address(wanted):
            return _truth(value == ip_address(wanted))
        case int(), Range(int(first), int(last)):
            return _truth(first <= value <= last)
        case int(), int():
            return _truth(value == wanted)
        case int(), "echo-request":
            return _truth(value in _ECHO_REQUEST)
        case int(), str():
            # the name of a protocol, or an ICMP type that opens no connection
            return _truth(value == PROTOCOLS.get(wanted, -1))
        case str(), str() if wanted.endswith("*"):
            return _truth(value.startswith(wanted[:-1]))
        case str(), str():
            return _truth(value == wanted)
        case str(), Bits(names):
            return _truth(value in names)
    return Truth.UNKNOWN


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _truth(holds: bool) -> Truth:
    return Truth.YES if holds else Truth.NO


def _any(truths: Iterable[Truth]) -> Truth:
    every = set(truths)
    return next((one for one in (Truth.YES, Truth.UNKNOWN) if one in every), Truth.NO)


def _all(truths: Iterable[Truth]) -> Truth:
    every = set(truths)
    return next((one for one in (Truth.NO, Truth.UNKNOWN) if one in every), Truth.YES)


def _both(one: Truth, other: Truth) -> Truth:
    return _all((one, other))
