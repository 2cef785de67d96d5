# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists, as objects and statements like ours. Pure.

What is not understood is kept as it is, as Raw or Other: it may be of another program, or of a newer nft. So
is what has one key more than is understood here: `limit rate 5 kbytes/second` is no limit of 5 packets.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.rules.objects import (
    Chain,
    CounterObject,
    HelperObject,
    Hook,
    Map,
    Object,
    Other,
    Rule,
    Set,
    Table,
)
from agent.rules.statements import (
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

Entry = tuple[str, Mapping[str, object]]
"""One object of a listing: its kind, and what it is."""

_PLACE = frozenset({"family", "table", "name", "handle"})
_KEYS: Mapping[str, frozenset[str]] = {
    "table": _PLACE,
    "chain": _PLACE | {"type", "hook", "prio", "policy"},
    "rule": frozenset({"family", "table", "chain", "handle", "expr", "comment"}),
    "counter": _PLACE | {"packets", "bytes"},
    "ct helper": _PLACE | {"type", "protocol", "l3proto"},
    "set": _PLACE | {"type", "flags", "timeout", "size", "elem"},
    "map": _PLACE | {"type", "map", "flags", "elem"},
}
"""What is read of each kind of object."""


def entries_of(text: str) -> list[Entry]:
    """The objects of an answer as (kind, body). ValueError when it is none."""
    try:
        answer = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    entries = answer.get("nftables") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no list called `nftables`")
    return [_entry(entry) for entry in entries]


def _entry(entry: object) -> Entry:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(f"an entry is not an object with one key: {str(entry)[:60]}")
    ((kind, body),) = entry.items()
    if not isinstance(body, dict):
        raise ValueError(f"the entry `{str(kind)[:60]}` is not an object")
    return str(kind), body


def parse_object(kind: str, body: Mapping[str, object]) -> Object:
    table, name = str(body.get("table", "")), str(body.get("name", ""))
    more = _parse_more(kind, body)
    match kind:
        case "table":
            return Table(name, more=more)
        case "chain":
            return Chain(table, name, _parse_hook(body) if "hook" in body else None, more=more)
        case "rule":
            return parse_rule(body)
        case "counter":
            return CounterObject(table, name, parse_counts(body), more=more)
        case "ct helper":
            return HelperObject(table, name, str(body.get("type")), str(body.get("protocol")), more=more)
        case "set":
            return Set(
                table,
                name,
                _parse_names(body.get("type")),
                tuple(map(_parse_element, listed(body.get("elem")))),
                _parse_names(body.get("flags")),
                _parse_number(body.get("timeout")),
                _parse_number(body.get("size")),
                more=more,
            )
        case "map":
            flags = _parse_names(body.get("flags"))
            entries = _parse_entries(body.get("elem"))
            return Map(table, name, _parse_names(body.get("type")), entries, flags, more=more)
    return Other(table, name, kind)


def _parse_more(kind: str, body: Mapping[str, object]) -> Raw | None:
    more = {key: value for key, value in body.items() if key not in _KEYS.get(kind, body)}
    return Raw(more) if more else None


def _parse_hook(body: Mapping[str, object]) -> Hook:
    priority = _parse_number(body.get("prio"))
    hook, policy, kind = (str(body.get(key, "")) for key in ("hook", "policy", "type"))
    return Hook(hook, priority or 0, policy or "accept", kind)


def parse_rule(body: Mapping[str, object]) -> Rule:
    more = _parse_more("rule", body)
    statements = (*_parse_statements(body.get("expr")), *((more,) if more else ()))
    comment, handle = str(body.get("comment", "")), _parse_number(body.get("handle"))
    return Rule(str(body.get("table", "")), str(body.get("chain", "")), statements, comment, handle)


def _parse_names(value: object) -> tuple[str, ...]:
    return tuple(map(str, listed(value)))


def _parse_statements(value: object) -> tuple[Statement, ...]:
    return tuple(map(parse_statement, listed(value)))


def _parse_number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def parse_counts(body: object) -> tuple[int, int] | None:
    """Packets and bytes; None where there are none."""
    match body:
        case {"packets": int(packets), "bytes": int(size)}:
            return packets, size
    return None


def _parse_entries(value: object) -> tuple[tuple[Value, Any], ...]:
    """Of a map: its keys with their verdicts, or other values."""
    pairs = [one for one in listed(value) if isinstance(one, list | tuple) and len(one) == 2]
    return tuple((_parse_element(key), _parse_mapped(mapped)) for key, mapped in pairs)


def _parse_mapped(value: object) -> Value | Statement:
    if isinstance(value, Mapping):
        statement = parse_statement(value)
        if isinstance(statement, Decision | Reject):
            return statement
    return parse_value(value)


def _parse_element(value: object) -> Value:
    """Of a set or map. For how long it stays there says nothing about a packet."""
    match value:
        case {"elem": {"val": inner, **rest}, **more} if not more and rest.keys() <= {"timeout", "expires"}:
            return parse_value(inner)
    return parse_value(value)


def listed(value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return value
    return () if value is None else (value,)


def parse_value(value: object) -> Value:
    match value:
        case str() if value.startswith("@"):
            return NamedSet(value[1:])
        case str() | int():
            return value
        case list() | tuple():
            return Bits(tuple(map(parse_value, value)))
    if not isinstance(value, Mapping) or len(value) != 1:
        return Raw(value)
    ((kind, body),) = value.items()
    found = _parse_expression(kind, body)
    return Raw(value) if found is None else found


def _parse_expression(kind: str, body: object) -> Value | None:
    match kind, body:
        case "meta", {"key": str(key), **rest} if not rest:
            return Meta(key)
        case "payload", {"protocol": str(protocol), "field": str(name), **rest} if not rest:
            return Payload(protocol, name)
        case "ct", {"key": str(key), "dir": str(direction), **rest} if not rest:
            return Ct(key, direction)
        case "ct", {"key": str(key), **rest} if not rest:
            return Ct(key)
        case "fib", {"result": str(result), "flags": flags, **rest} if not rest:
            return Fib(result, _parse_names(flags))
        case "&", [field, mask]:
            return Masked(parse_value(field), parse_value(mask))
        case "prefix", {"addr": str(address), "len": int(length), **rest} if not rest:
            return Prefix(address, length)
        case "range", [str() | int() as first, str() | int() as last]:
            return Range(first, last)
        case "concat", list() | tuple() as parts:
            return Concat(tuple(map(parse_value, parts)))
        case "set", values:
            return OneOf(tuple(map(_parse_element, listed(values))))
    return None


def parse_statement(statement: object) -> Statement:
    if not isinstance(statement, Mapping) or len(statement) != 1:
        return Raw(statement)
    ((kind, body),) = statement.items()
    parse = _PARSERS.get(kind)
    return Raw(statement) if parse is None else parse(kind, body) or Raw(statement)


def _filled(body: object, **defaults: object) -> Mapping[str, object] | None:
    """`body` with what nft leaves out where it is as usual; None when it has no keys."""
    return {**defaults, **body} if isinstance(body, Mapping) else None


def _parse_decision(kind: str, body: object) -> Statement | None:
    return Decision(Verdict(kind)) if body is None else None


def _parse_jump(kind: str, body: object) -> Statement | None:
    match body:
        case {"target": str(chain), **rest} if not rest:
            return Decision(Verdict(kind), chain)
    return None


def _parse_reject(_: str, body: object) -> Statement | None:
    match _filled(body or {}, type="", expr=""):
        case {"type": str(kind), "expr": str(code), **rest} if not rest:
            return Reject(kind, code)
    return None


def _parse_match(_: str, body: object) -> Statement | None:
    match _filled(body, op="=="):
        case {"left": left, "right": right, "op": str(operator), **rest} if not rest:
            return Match(parse_value(left), parse_value(right), operator)
    return None


def _parse_limit(_: str, body: object) -> Statement | None:
    usual = {"per": "second", "burst": 0, "inv": False, "rate_unit": "packets", "burst_unit": "packets"}
    match _filled(body, **usual):
        case {
            "rate": int(count),
            "per": str(period),
            "burst": int(burst),
            "inv": bool(over),
            "rate_unit": "packets",
            "burst_unit": "packets",
            **rest,
        } if not rest:
            return Limit(count, period, burst, over)
    return None


def _parse_connections(_: str, body: object) -> Statement | None:
    match _filled(body, inv=False):
        case {"val": int(count), "inv": bool(over), **rest} if not rest:
            return ConnectionLimit(count, over)
    return None


def _parse_counter(_: str, body: object) -> Statement | None:
    match body:
        case None:
            return Count()
        case str():
            return NamedCounter(body)
        case {"packets": int(packets), "bytes": int(size), **rest} if not rest:
            return Count((packets, size))
    return None


def _parse_in_set(_: str, body: object) -> Statement | None:
    match _filled(body, stmt=()):
        case {"op": str(operation), "elem": element, "set": str(name), "stmt": limits, **rest} if not rest:
            limited = _parse_statements(limits)
            return SetUpdate(operation, parse_value(element), name.removeprefix("@"), limited)
    return None


def _parse_meter(_: str, body: object) -> Statement | None:
    match _filled(body, name="", size=0):
        # how many elements there may be is not said by a rule of ours
        case {"key": element, "stmt": limits, "name": str(name), "size": int(), **rest} if not rest:
            return SetUpdate("meter", parse_value(element), name, _parse_statements(limits))
    return None


def _parse_log(_: str, body: object) -> Statement | None:
    match _filled(body or {}, prefix="", level=""):
        case {"prefix": str(prefix), "level": str(level), **rest} if not rest:
            return Log(prefix, level)
    return None


def _parse_translate(kind: str, body: object) -> Statement | None:
    match _filled(body or {}, family="", addr=None, port=None, flags=(), type_flags=()):
        case {
            "family": str(version),
            "addr": addr,
            "port": port,
            "flags": flags,
            # says only that the address is a prefix
            "type_flags": () | [] | "prefix" | ["prefix"],
            **rest,
        } if not rest:
            address, target = (None if one is None else parse_value(one) for one in (addr, port))
            return Translate(kind, version, address, target, _parse_names(flags))
    return None


def _parse_map(_: str, body: object) -> Statement | None:
    match body:
        case {"key": key, "data": str(name), **rest} if not rest:
            return VerdictMap(parse_value(key), NamedSet(name.removeprefix("@")))
        case {"key": key, "data": {"set": entries, **more}, **rest} if not rest and not more:
            return VerdictMap(parse_value(key), _parse_entries(entries))
    return None


def _parse_helper(_: str, body: object) -> Statement | None:
    return Helper(body) if isinstance(body, str) else None


def _parse_notrack(_: str, body: object) -> Statement | None:
    return Notrack() if body is None else None


_PARSERS: Mapping[str, Callable[[str, object], Statement | None]] = {
    **{one.value: _parse_decision for one in (Verdict.ACCEPT, Verdict.DROP, Verdict.RETURN, Verdict.QUEUE)},
    "jump": _parse_jump,
    "goto": _parse_jump,
    "reject": _parse_reject,
    "match": _parse_match,
    "limit": _parse_limit,
    "ct count": _parse_connections,
    "counter": _parse_counter,
    "set": _parse_in_set,
    "log": _parse_log,
    "snat": _parse_translate,
    "dnat": _parse_translate,
    "masquerade": _parse_translate,
    "meter": _parse_meter,
    "vmap": _parse_map,
    "ct helper": _parse_helper,
    "notrack": _parse_notrack,
}
