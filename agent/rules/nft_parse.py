# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists, as objects and statements like ours. Pure.

What is not understood is kept as it is, as Raw or Other: it may be of another program, or of a newer nft.
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
    match kind:
        case "table":
            return Table(name)
        case "chain":
            return Chain(table, name, _parse_hook(body) if "hook" in body else None)
        case "rule":
            return parse_rule(body)
        case "counter":
            return CounterObject(table, name, parse_counts(body))
        case "ct helper":
            return HelperObject(table, name, str(body.get("type")), str(body.get("protocol")))
        case "set":
            return Set(
                table,
                name,
                _parse_names(body.get("type")),
                tuple(map(parse_value, listed(body.get("elem")))),
                _parse_names(body.get("flags")),
                _parse_number(body.get("timeout")),
                _parse_number(body.get("size")),
            )
        case "map":
            flags = _parse_names(body.get("flags"))
            entries = _parse_entries(body.get("elem"))
            return Map(table, name, _parse_names(body.get("type")), entries, flags)
    return Other(table, name, kind)


def _parse_hook(body: Mapping[str, object]) -> Hook:
    priority = _parse_number(body.get("prio"))
    hook, policy, kind = (str(body.get(key, "")) for key in ("hook", "policy", "type"))
    return Hook(hook, priority or 0, policy or "accept", kind)


def parse_rule(body: Mapping[str, object]) -> Rule:
    statements = _parse_statements(body.get("expr"))
    comment, handle = str(body.get("comment", "")), _parse_number(body.get("handle"))
    return Rule(str(body.get("table", "")), str(body.get("chain", "")), statements, comment, handle)


def _parse_names(value: object) -> tuple[str, ...]:
    return tuple(map(str, listed(value)))


def _parse_statements(value: object) -> tuple[Statement, ...]:
    return tuple(parse_statement(one) for one in listed(value) if isinstance(one, Mapping))


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
    return tuple((parse_value(key), _parse_mapped(mapped)) for key, mapped in pairs)


def _parse_mapped(value: object) -> Value | Statement:
    if isinstance(value, Mapping):
        statement = parse_statement(value)
        if isinstance(statement, Decision | Reject):
            return statement
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
        case {"meta": {"key": str(key)}}:
            return Meta(key)
        case {"payload": {"protocol": str(protocol), "field": str(name)}}:
            return Payload(protocol, name)
        case {"ct": {"key": str(key), **rest}}:
            return Ct(key, str(rest.get("dir", "")))
        case {"fib": {"result": str(result), "flags": flags}}:
            return Fib(result, _parse_names(flags))
        case {"&": [field, mask]}:
            return Masked(parse_value(field), parse_value(mask))
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return Prefix(address, length)
        case {"range": [str() | int() as first, str() | int() as last]}:
            return Range(first, last)
        case {"concat": list() | tuple() as parts}:
            return Concat(tuple(map(parse_value, parts)))
        case {"set": values}:
            return OneOf(tuple(map(parse_value, listed(values))))
        case {"elem": {"val": inner}}:
            return parse_value(inner)
    return Raw(value)


def parse_statement(statement: Mapping[str, object]) -> Statement:
    if len(statement) != 1:
        return Raw(statement)
    ((kind, body),) = statement.items()
    parse = _PARSERS.get(kind)
    return Raw(statement) if parse is None else parse(kind, body) or Raw(statement)


def _parse_jump(kind: str, body: object) -> Statement | None:
    return Decision(Verdict(kind), str(body.get("target"))) if isinstance(body, Mapping) else None


def _parse_reject(_: str, body: object) -> Statement:
    reject = body if isinstance(body, Mapping) else {}
    return Reject(str(reject.get("type", "")), str(reject.get("expr", "")))


def _parse_match(_: str, body: object) -> Statement | None:
    match body:
        case {"left": left, "right": right, **rest}:
            return Match(parse_value(left), parse_value(right), str(rest.get("op", "==")))
    return None


def _parse_limit(_: str, body: object) -> Statement | None:
    match body:
        case {"rate": int(rate), **rest}:
            burst, over = _parse_number(rest.get("burst")) or 0, bool(rest.get("inv"))
            return Limit(rate, str(rest.get("per", "second")), burst, over)
    return None


def _parse_connections(_: str, body: object) -> Statement | None:
    match body:
        case {"val": int(most), **rest}:
            return ConnectionLimit(most, bool(rest.get("inv")))
    return None


def _parse_counter(_: str, body: object) -> Statement:
    if isinstance(body, str):
        return NamedCounter(body)
    return Count(parse_counts(body))


def _parse_in_set(_: str, body: object) -> Statement | None:
    match body:
        case {"op": str(operation), "elem": element, "set": str(name), **rest}:
            limits = _parse_statements(rest.get("stmt"))
            return SetUpdate(operation, parse_value(element), name.removeprefix("@"), limits)
    return None


def _parse_meter(_: str, body: object) -> Statement | None:
    match body:
        case {"key": element, "stmt": limits, **rest}:
            name = str(rest.get("name", ""))
            return SetUpdate("meter", parse_value(element), name, _parse_statements(limits))
    return None


def _parse_log(_: str, body: object) -> Statement:
    said = body if isinstance(body, Mapping) else {}
    return Log(str(said.get("prefix", "")), str(said.get("level", "")))


def _parse_translate(kind: str, body: object) -> Statement:
    said = body if isinstance(body, Mapping) else {}
    address, port = (parse_value(said[key]) if key in said else None for key in ("addr", "port"))
    return Translate(kind, str(said.get("family", "")), address, port, _parse_names(said.get("flags")))


def _parse_map(_: str, body: object) -> Statement | None:
    match body:
        case {"key": key, "data": str(name)}:
            return VerdictMap(parse_value(key), NamedSet(name.removeprefix("@")))
        case {"key": key, "data": {"set": entries}}:
            return VerdictMap(parse_value(key), _parse_entries(entries))
    return None


_PARSERS: Mapping[str, Callable[[str, object], Statement | None]] = {
    **{
        one.value: lambda kind, _: Decision(Verdict(kind))
        for one in (Verdict.ACCEPT, Verdict.DROP, Verdict.RETURN, Verdict.QUEUE)
    },
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
    "ct helper": lambda _, body: Helper(body) if isinstance(body, str) else None,
    "notrack": lambda *_: Notrack(),
}
