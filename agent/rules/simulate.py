"""What a table does with a packet, as far as the packet is known. Pure.

Not the judge of live packets (that is the kernel: `hafw rules trace`), but the one who can be asked about
ten thousand connections at once, and about "whatever arrives at eth1". Everything is three-valued: a match
that depends on what is not known, or that is not understood here, is None, and makes the verdict None as
well.

Limits are taken as not used up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from agent.rules.delta import Model

IPAddress = IPv4Address | IPv6Address
Known = bool | None

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
_FINAL = ("accept", "drop", "reject")
_SILENT = frozenset(
    {"counter", "log", "ct helper", "notrack", "comment", "mangle", "snat", "dnat", "masquerade", "redirect"}
)
MOST_JUMPS = 32
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
    translated: bool | None = None
    """Whether the destination was rewritten."""
    asked: IPAddress | None = None
    """The destination and its port as they were when the connection came in."""
    asked_port: int | None = None

    @property
    def version(self) -> int | None:
        address = self.saddr or self.daddr
        return address.version if address else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`verdict` is accept, drop or reject; None when it cannot be told. `rule` has decided: None is the
    policy of a base chain."""

    verdict: str | None
    rule: Mapping[str, object] | None = None


class _Nothing:
    """What a field is in a packet that does not have it: equal to no value, and not different either."""


_ABSENT = _Nothing()
Value = object


def verdict_of(table: Model, chain: str, packet: Packet) -> Verdict:
    """What the base chain `chain` says of `packet`."""
    found = _walk(table, chain, packet, MOST_JUMPS)
    if found is not None:
        return found
    policy = table.chains.get(chain, {}).get("policy", "accept")
    return Verdict(str(policy))


def _walk(table: Model, chain: str, packet: Packet, left: int) -> Verdict | None:
    """None when `packet` comes out at the end of the chain."""
    if left == 0:
        return Verdict(None)
    for rule in table.rules.get(chain, []):
        outcome = _meet(table, rule, packet)
        if outcome is None:
            continue
        kind, target = outcome
        if kind == "return":
            return None
        if kind in ("jump", "goto"):
            found = _walk(table, target, packet, left - 1)
            if found is not None or kind == "goto":
                return found
        else:
            return Verdict(kind if kind in _FINAL else None, rule)
    return None


def _meet(table: Model, rule: Mapping[str, object], packet: Packet) -> tuple[str, str] | None:
    """The verdict of one rule with its target; None when it has none for this packet."""
    expressions = rule.get("expr")
    known: Known = True
    for expression in expressions if isinstance(expressions, list | tuple) else ():
        verdict = verdict_in(expression)
        if verdict is not None:
            return verdict if known else ("unknown", "")
        if "vmap" in expression:
            found = _look_up(table, expression["vmap"], packet)
            if found is not None:
                return found if known else ("unknown", "")
            continue
        matched = applies(table, expression, packet)
        if matched is False:
            return None
        known = known if matched else None
    return None


def verdict_in(expression: Mapping[str, object]) -> tuple[str, str] | None:
    """The verdict that `expression` is, with the chain it leads to."""
    for kind in (*_FINAL, "return", "queue"):
        if kind in expression:
            return kind, ""
    for kind in ("jump", "goto"):
        target = expression.get(kind)
        if isinstance(target, Mapping):
            return kind, str(target.get("target"))
    return None


def _look_up(table: Model, vmap: object, packet: Packet) -> tuple[str, str] | None:
    for _, matched, verdict in entries_of_map(table, vmap, packet):
        if matched is None:
            return "unknown", ""
        if matched:
            return verdict_in(verdict)
    return None


def entries_of_map(
    table: Model, vmap: object, packet: Packet
) -> list[tuple[object, Known, Mapping[str, object]]]:
    """Every key and verdict of a map that `packet` may get, with whether it surely does."""
    if not isinstance(vmap, Mapping):
        return [("", None, {})]
    value = _value(vmap.get("key"), packet)
    found = [(key, _equal(table, value, key), verdict) for key, verdict in map_entries(table, vmap)]
    return [entry for entry in found if entry[1] is not False]


def map_entries(table: Model, vmap: Mapping[str, object]) -> list[tuple[object, Mapping[str, object]]]:
    data = vmap.get("data")
    entries: object = data.get("set") if isinstance(data, Mapping) else None
    if isinstance(data, str):
        entries = table.elements.get(("map", data.removeprefix("@")), [])
    pairs = [entry for entry in _listed(entries) if isinstance(entry, list | tuple) and len(entry) == 2]
    return [(entry[0], entry[1] if isinstance(entry[1], Mapping) else {}) for entry in pairs]


def applies(table: Model, expression: Mapping[str, object], packet: Packet) -> Known:
    """Whether a statement lets the rule go on with `packet`."""
    ((kind, body),) = expression.items()
    if kind in _SILENT:
        return True
    if kind in ("limit", "ct count", "quota") and isinstance(body, Mapping):
        return not body.get("inv", False)
    if kind in ("set", "meter") and isinstance(body, Mapping):
        inner = [one for one in _listed(body.get("stmt")) if isinstance(one, Mapping)]
        return _all(applies(table, one, packet) for one in inner)
    if kind == "match" and isinstance(body, Mapping):
        return _matches(table, body, packet)
    return None


def _matches(table: Model, body: Mapping[str, object], packet: Packet) -> Known:
    if body.get("right") == "confirmed" and packet.ct_state == "new":
        return False
    value = _value(body.get("left"), packet)
    if isinstance(value, _Nothing):
        return False
    equal = _equal(table, value, body.get("right"))
    operator = body.get("op")
    if operator in ("==", "in"):
        return equal
    return None if operator != "!=" or equal is None else not equal


def _value(left: object, packet: Packet) -> Value:
    match left:
        case {"meta": {"key": str(key)}}:
            return _meta(key, packet)
        case {"payload": {"protocol": str(protocol), "field": str(name)}}:
            return _payload(protocol, name, packet)
        case {"ct": {"key": "state"}}:
            return packet.ct_state
        case {"ct": {"key": "ip daddr" | "ip6 daddr" as key, "dir": "original"}}:
            other = packet.version not in (None, 4 if key == "ip daddr" else 6)
            return _ABSENT if other else packet.asked
        case {"ct": {"key": "proto-dst", "dir": "original"}}:
            return packet.asked_port
        case {"ct": {"key": "status"}} if packet.translated is not None:
            return "dnat" if packet.translated else ""
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
    return None


def _meta(key: str, packet: Packet) -> Value:
    match key:
        case "iifname":
            return packet.iifname
        case "oifname":
            return packet.oifname
        case "l4proto":
            return packet.protocol
        case "nfproto":
            return f"ipv{packet.version}" if packet.version else None
    return None


def _payload(protocol: str, name: str, packet: Packet) -> Value:
    if protocol in ("ip", "ip6"):
        if packet.version is not None and packet.version != (4 if protocol == "ip" else 6):
            return _ABSENT
        return getattr(packet, name) if name in ("saddr", "daddr") else None
    if protocol == "th":
        has_ports = packet.protocol is None or packet.protocol in _PORTED.values()
        return getattr(packet, name) if has_ports and name in ("sport", "dport") else None
    if packet.protocol is not None and packet.protocol != PROTOCOLS.get(protocol, packet.protocol):
        return _ABSENT
    if protocol in _PORTED and name in ("sport", "dport"):
        return getattr(packet, name)
    if protocol in ("icmp", "icmpv6") and name == "type":
        return packet.dport
    if (protocol, name) == ("tcp", "flags") and packet.ct_state == "new":
        return "syn"
    return None


def _equal(table: Model, value: Value, right: object) -> Known:
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
    if value is None or isinstance(value, tuple):
        return None
    return False if isinstance(value, _Nothing) else _equal_to_one(value, right)


def _in_named(table: Model, value: Value, name: str) -> Known:
    if name in table.moving:
        return None
    for kind in ("set", "map"):
        if (kind, name) in table.objects:
            return _any(_equal(table, value, one) for one in table.elements[kind, name])
    return None


def _equal_to_one(value: Value, right: object) -> Known:
    match value, right:
        case IPv4Address() | IPv6Address(), {"prefix": {"addr": str(address), "len": int(length)}}:
            network = ip_network(f"{address}/{length}", strict=False)
            return value.version == network.version and value in network
        case IPv4Address() | IPv6Address(), {"range": [str(first), str(last)]}:
            low, high = ip_address(first), ip_address(last)
            return value.version == low.version and low.packed <= value.packed <= high.packed
        case IPv4Address() | IPv6Address(), str():
            return value == ip_address(right) if _is_address(right) else None
        case int(), {"range": [int(first), int(last)]}:
            return first <= value <= last
        case int(), int():
            return value == right
        case int(), "echo-request":
            return value in _ECHO_REQUEST
        case int(), str():
            # the name of a protocol, or an ICMP type that opens no connection
            return value == PROTOCOLS.get(right, -1)
        case str(), str() if right.endswith("*"):
            return value.startswith(right[:-1])
        case str(), str():
            return value == right
        case str(), list() | tuple():
            return value in right
    return None


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


def _any(known: Iterable[Known]) -> Known:
    """True wins, then "not known"."""
    every = set(known)
    return True if True in every else None if None in every else False


def _all(known: Iterable[Known]) -> Known:
    every = set(known)
    return False if False in every else None if None in every else True
