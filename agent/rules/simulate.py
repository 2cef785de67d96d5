# SPDX-License-Identifier: GPL-2.0-or-later
"""What a table does with a packet, as far as the packet is known. Pure.

Not the judge of live packets (that is the kernel: `hafw rules trace`), but the one who can be asked about
ten thousand connections at once, and about "whatever arrives at eth1". A match that depends on what is not
known, or that is not understood here, is UNKNOWN, and so is the verdict behind it.

Limits are taken as not used up.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

from agent.rules.delta import Model

IPAddress = IPv4Address | IPv6Address


class Answer(Enum):
    """Whether something holds for a packet."""

    YES = auto()
    NO = auto()
    UNKNOWN = auto()


class Verdict(Enum):
    """What a rule or a chain says of a packet."""

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    RETURN = "return"
    QUEUE = "queue"
    JUMP = "jump"
    GOTO = "goto"
    CONTINUE = "continue"
    """It says nothing: what comes behind it decides."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Decision:
    """`chain` is where a jump or goto leads to."""

    verdict: Verdict
    chain: str = ""


class NoValue(Enum):
    """What a field of a packet is that has no value here."""

    UNKNOWN = auto()
    ABSENT = auto()
    """The packet has no such field: it is equal to no value, and not different either."""


NEUTRAL = Decision(Verdict.CONTINUE)
FORBIDDING = frozenset({Verdict.DROP, Verdict.REJECT})
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
_PLAIN = (*_FINAL, Verdict.RETURN, Verdict.QUEUE)
_SILENT = frozenset(
    {"counter", "log", "ct helper", "notrack", "comment", "mangle", "snat", "dnat", "masquerade", "redirect"}
)
MAX_JUMPS = 32
"""The kernel allows 16; a chain of somebody else's could go round."""


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
    translated: Answer = Answer.UNKNOWN
    """Whether the destination was rewritten."""
    asked: IPAddress | None = None
    """The destination and its port as they were when the connection came in."""
    asked_port: int | None = None

    @property
    def version(self) -> int | None:
        address = self.saddr or self.daddr
        return address.version if address else None


Value: TypeAlias = "IPAddress | int | str | tuple[Value, ...] | NoValue"


def verdict_of(table: Model, chain: str, packet: Packet) -> Verdict:
    """What the base chain `chain` says of `packet`: accept, drop, reject, or that it cannot be told."""
    found = _walk(table, chain, packet, MAX_JUMPS)
    if found is Verdict.CONTINUE:
        found = Verdict(table.chains.get(chain, {}).get("policy", "accept"))
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


def _decision_of(table: Model, rule: Mapping[str, object], packet: Packet) -> Decision:
    """What one rule says."""
    expressions = rule.get("expr")
    met = Answer.YES
    for expression in expressions if isinstance(expressions, list | tuple) else ():
        decision = decision_in(expression)
        if decision is NEUTRAL and "vmap" in expression:
            decision = _look_up(table, expression["vmap"], packet)
        elif decision is NEUTRAL:
            met = _both(met, applies(table, expression, packet))
            if met is Answer.NO:
                return NEUTRAL
        if decision is not NEUTRAL:
            return decision if met is Answer.YES else _UNDECIDED
    return NEUTRAL


def decision_in(expression: Mapping[str, object]) -> Decision:
    """The verdict that `expression` is; NEUTRAL when it is none."""
    for verdict in _PLAIN:
        if verdict.value in expression:
            return Decision(verdict)
    for verdict in (Verdict.JUMP, Verdict.GOTO):
        target = expression.get(verdict.value)
        if isinstance(target, Mapping):
            return Decision(verdict, str(target.get("target")))
    return NEUTRAL


def _look_up(table: Model, vmap: object, packet: Packet) -> Decision:
    for _, matched, verdict in entries_of_map(table, vmap, packet):
        return decision_in(verdict) if matched is Answer.YES else _UNDECIDED
    return NEUTRAL


def entries_of_map(
    table: Model, vmap: object, packet: Packet
) -> list[tuple[object, Answer, Mapping[str, object]]]:
    """Every key and verdict of a map that `packet` may get, with whether it does: YES or UNKNOWN."""
    if not isinstance(vmap, Mapping):
        return [("", Answer.UNKNOWN, {})]
    value = _value(vmap.get("key"), packet)
    found = [(key, _equal(table, value, key), verdict) for key, verdict in map_entries(table, vmap)]
    return [entry for entry in found if entry[1] is not Answer.NO]


def map_entries(table: Model, vmap: Mapping[str, object]) -> list[tuple[object, Mapping[str, object]]]:
    data = vmap.get("data")
    entries: object = data.get("set") if isinstance(data, Mapping) else None
    if isinstance(data, str):
        entries = table.elements.get(("map", data.removeprefix("@")), [])
    pairs = [entry for entry in _listed(entries) if isinstance(entry, list | tuple) and len(entry) == 2]
    return [(entry[0], entry[1] if isinstance(entry[1], Mapping) else {}) for entry in pairs]


def applies(table: Model, expression: Mapping[str, object], packet: Packet) -> Answer:
    """Whether a statement lets the rule continue with `packet`."""
    ((kind, body),) = expression.items()
    if kind in _SILENT:
        return Answer.YES
    if kind in ("limit", "ct count", "quota") and isinstance(body, Mapping):
        return _answer(not body.get("inv", False))
    if kind in ("set", "meter") and isinstance(body, Mapping):
        inner = [one for one in _listed(body.get("stmt")) if isinstance(one, Mapping)]
        return _all(applies(table, one, packet) for one in inner)
    if kind == "match" and isinstance(body, Mapping):
        return _matches(table, body, packet)
    return Answer.UNKNOWN


def _matches(table: Model, body: Mapping[str, object], packet: Packet) -> Answer:
    if body.get("right") == "confirmed" and packet.ct_state == "new":
        return Answer.NO
    value = _value(body.get("left"), packet)
    if value is NoValue.ABSENT:
        return Answer.NO
    equal = _equal(table, value, body.get("right"))
    match body.get("op"):
        case "==" | "in":
            return equal
        case "!=" if equal is not Answer.UNKNOWN:
            return _answer(equal is Answer.NO)
    return Answer.UNKNOWN


def _value(left: object, packet: Packet) -> Value:
    match left:
        case {"meta": {"key": str(key)}}:
            return _meta(key, packet)
        case {"payload": {"protocol": str(protocol), "field": str(name)}}:
            return _payload(protocol, name, packet)
        case {"ct": {"key": "state"}}:
            return _known(packet.ct_state)
        case {"ct": {"key": "ip daddr" | "ip6 daddr" as key, "dir": "original"}}:
            other = packet.version not in (None, 4 if key == "ip daddr" else 6)
            return NoValue.ABSENT if other else _known(packet.asked)
        case {"ct": {"key": "proto-dst", "dir": "original"}}:
            return _known(packet.asked_port)
        case {"ct": {"key": "status"}} if packet.translated is not Answer.UNKNOWN:
            return "dnat" if packet.translated is Answer.YES else ""
        case {"&": [inner, _]}:
            return _value(inner, packet)
        case {"fib": {"result": "type"}}:
            # and to be nobody here
            return "unicast"
        case {"fib": _}:
            # no routes here: a source is taken to live where its packets come from
            return True
        case {"concat": list(parts) | tuple(parts)}:
            return tuple(_value(part, packet) for part in parts)
    return NoValue.UNKNOWN


def _known(field: IPAddress | int | str | None) -> Value:
    return NoValue.UNKNOWN if field is None else field


def _meta(key: str, packet: Packet) -> Value:
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


def _payload(protocol: str, name: str, packet: Packet) -> Value:
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


def _field(name: str, there: Collection[str], packet: Packet) -> Value:
    return _known(getattr(packet, name)) if name in there else NoValue.UNKNOWN


def _equal(table: Model, value: Value, right: object) -> Answer:
    """Whether `value` is what `right` says, which may be a set of things."""
    match right:
        case str() if right.startswith("@"):
            return _in_named(table, value, right[1:])
        case {"set": inner}:
            return _any(_equal(table, value, one) for one in _listed(inner))
        case {"elem": {"val": inner}}:
            return _equal(table, value, inner)
        case {"concat": list(parts) | tuple(parts)} if isinstance(value, tuple) and len(value) == len(parts):
            return _all(_equal(table, one, part) for one, part in zip(value, parts, strict=True))
    if value is NoValue.ABSENT:
        return Answer.NO
    if value is NoValue.UNKNOWN or isinstance(value, tuple):
        return Answer.UNKNOWN
    return _equal_to_one(value, right)


def _in_named(table: Model, value: Value, name: str) -> Answer:
    if name in table.moving:
        return Answer.UNKNOWN
    for kind in ("set", "map"):
        if (kind, name) in table.objects:
            return _any(_equal(table, value, one) for one in table.elements[kind, name])
    return Answer.UNKNOWN


def _equal_to_one(value: Value, right: object) -> Answer:
    match value, right:
        case IPv4Address() | IPv6Address(), {"prefix": {"addr": str(address), "len": int(length)}}:
            network = ip_network(f"{address}/{length}", strict=False)
            return _answer(value.version == network.version and value in network)
        case IPv4Address() | IPv6Address(), {"range": [str(first), str(last)]}:
            low, high = ip_address(first), ip_address(last)
            return _answer(value.version == low.version and low.packed <= value.packed <= high.packed)
        case IPv4Address() | IPv6Address(), str() if _is_address(right):
            return _answer(value == ip_address(right))
        case int(), {"range": [int(first), int(last)]}:
            return _answer(first <= value <= last)
        case int(), int():
            return _answer(value == right)
        case int(), "echo-request":
            return _answer(value in _ECHO_REQUEST)
        case int(), str():
            # the name of a protocol, or an ICMP type that opens no connection
            return _answer(value == PROTOCOLS.get(right, -1))
        case str(), str() if right.endswith("*"):
            return _answer(value.startswith(right[:-1]))
        case str(), str():
            return _answer(value == right)
        case str(), list() | tuple():
            return _answer(value in right)
    return Answer.UNKNOWN


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _listed(value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return value
    return () if value is None else (value,)


def _answer(truth: bool) -> Answer:
    return Answer.YES if truth else Answer.NO


def _any(answers: Iterable[Answer]) -> Answer:
    every = set(answers)
    return next((one for one in (Answer.YES, Answer.UNKNOWN) if one in every), Answer.NO)


def _all(answers: Iterable[Answer]) -> Answer:
    every = set(answers)
    return next((one for one in (Answer.NO, Answer.UNKNOWN) if one in every), Answer.YES)


def _both(one: Answer, other: Answer) -> Answer:
    return _all((one, other))
