# SPDX-License-Identifier: GPL-2.0-or-later
"""Our commands as libnftables JSON (libnftables-json(5)): made here, and read by nft alone. Pure. What nft
lists is its own JSON, read in nft_parse.py.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

from agent.rules.objects import (
    FAMILY,
    Chain,
    Command,
    DeleteElements,
    HelperObject,
    Hook,
    Object,
    Rule,
    Set,
    Table,
    Verb,
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
    Reject,
    SetUpdate,
    Statement,
    Translate,
    Value,
    VerdictMap,
)

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"
Body: TypeAlias = dict[str, Json]
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
_SOME = 16


def command_text(commands: Iterable[Command | DeleteElements]) -> str:
    return joined_text(command_texts(commands))


def command_texts(commands: Iterable[Command | DeleteElements]) -> Iterator[str]:
    """Some commands each, with commas between them."""
    left = iter(commands)
    # so few that they are gone before the garbage collector looks at them: it takes twice as long otherwise
    while some := [command_json(one) for one in islice(left, _SOME)]:
        yield _encode(some)[1:-1]


def joined_text(commands: Iterable[str]) -> str:
    """One transaction of what command_texts() has made."""
    return f'{{"nftables":[{",".join(commands)}]}}'


def list_text(kind: str, **place: str) -> str:
    return _encode({"nftables": [{"list": {kind: {"family": FAMILY, **place}}}]})


def command_json(command: Command | DeleteElements) -> Body:
    target = command.target
    if isinstance(command, DeleteElements):
        return {
            "delete": {
                "element": {**_place(target), "elem": [_value(one) for one in command.target.elements]}
            }
        }
    whole = command.verb in (Verb.ADD, Verb.CREATE)
    return {command.verb.value: object_json(target) if whole else {target.kind: _place(target)}}


def object_json(target: Object) -> Body:
    """Its kind, and what it is."""
    match target:
        case Rule():
            rule: Body = {"family": FAMILY, "table": target.table, "chain": target.chain}
            rule["expr"] = [_statement(one) for one in target.statements]
            return {"rule": {**rule, "comment": target.comment} if target.comment else rule}
        case Chain(hook=Hook() as hook):
            base: Body = {"type": hook.kind, "hook": hook.name, "prio": hook.priority, "policy": hook.policy}
            return {"chain": {**_place(target), **base}}
        case HelperObject():
            kind: Body = {"type": target.helper, "protocol": target.protocol, "l3proto": FAMILY}
            return {"ct helper": {**_place(target), **kind}}
        case Set():
            more: Body = {
                "type": target.type[0] if len(target.type) == 1 else target.type,
                "flags": target.flags,
                "timeout": target.timeout_s,
                "size": target.size,
                "elem": [_value(one) for one in target.elements],
            }
            return {"set": {**_place(target), **{key: value for key, value in more.items() if value}}}
    return {target.kind: _place(target)}


def _place(target: Object) -> Body:
    if isinstance(target, Table):
        return {"family": FAMILY, "name": target.name}
    if isinstance(target, Rule):
        raise AssertionError("a rule is flushed or deleted with its chain")
    return {"family": FAMILY, "table": target.table, "name": target.name}


def _value(value: Value) -> Json:
    return _VALUES[type(value)](value)


def _itself(value: Any) -> Json:
    return value  # type: ignore[no-any-return]  # a name, a number or a flag


_VALUES: Mapping[type, Callable[[Any], Json]] = {
    str: _itself,
    int: _itself,
    bool: _itself,
    Meta: lambda one: {"meta": {"key": one.key}},
    Payload: lambda one: {"payload": {"protocol": one.protocol, "field": one.field}},
    Ct: lambda one: {"ct": {"key": one.key, "dir": one.direction} if one.direction else {"key": one.key}},
    Fib: lambda one: {"fib": {"result": one.result, "flags": one.flags}},
    Masked: lambda one: {"&": [_value(one.field), _value(one.mask)]},
    Prefix: lambda one: {"prefix": {"addr": one.address, "len": one.length}},
    Range: lambda one: {"range": [one.first, one.last]},
    Concat: lambda one: {"concat": [_value(part) for part in one.parts]},
    Bits: lambda one: [_value(name) for name in one.names],
    OneOf: lambda one: {"set": [_value(each) for each in one.values]},
    NamedSet: lambda one: f"@{one.name}",
}


def _statement(statement: Statement) -> Json:
    return _STATEMENTS[type(statement)](statement)


def _match(one: Match) -> Json:
    return {"match": {"op": one.operator, "left": _value(one.field), "right": _value(one.value)}}


def _decision(one: Decision) -> Json:
    return {one.verdict.value: {"target": one.chain} if one.chain else None}


def _count(one: Count) -> Json:
    if one.start is None:
        return {"counter": None}
    return {"counter": {"packets": one.start[0], "bytes": one.start[1]}}


def _limit(one: Limit) -> Json:
    rate: Body = {"rate": one.count, "burst": one.burst, "per": one.period}
    return {"limit": {**rate, "inv": True} if one.over else rate}


def _connections(one: ConnectionLimit) -> Json:
    return {"ct count": {"val": one.count, "inv": True} if one.over else {"val": one.count}}


def _in_set(one: SetUpdate) -> Json:
    body: Body = {"op": one.operation, "elem": _value(one.element), "set": f"@{one.name}"}
    return {"set": {**body, "stmt": [_statement(each) for each in one.limits]} if one.limits else body}


def _translate(one: Translate) -> Json:
    body: Body = {"family": one.version}
    body |= {} if one.address is None else {"addr": _value(one.address)}
    body |= {} if one.port is None else {"port": _value(one.port)}
    return {one.kind: {**body, "flags": one.flags} if one.flags else body}


def _map(one: VerdictMap) -> Json:
    if isinstance(one.entries, NamedSet):
        return {"vmap": {"key": _value(one.key), "data": f"@{one.entries.name}"}}
    entries = [[_value(key), _statement(verdict)] for key, verdict in one.entries]
    return {"vmap": {"key": _value(one.key), "data": {"set": entries}}}


_STATEMENTS: Mapping[type, Callable[[Any], Json]] = {
    Match: _match,
    Decision: _decision,
    Reject: lambda one: {"reject": {"type": one.kind, "expr": one.code} if one.code else {"type": one.kind}},
    Count: _count,
    NamedCounter: lambda one: {"counter": one.name},
    Limit: _limit,
    ConnectionLimit: _connections,
    SetUpdate: _in_set,
    Log: lambda one: {"log": {"prefix": one.prefix, "level": one.level}},
    Translate: _translate,
    VerdictMap: _map,
    Helper: lambda one: {"ct helper": one.name},
    Notrack: lambda _: {"notrack": None},
}
