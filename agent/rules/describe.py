# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules in words: ours, and those of external changes. Pure."""

import json

from agent.rules.objects import Rule
from agent.rules.statements import (
    ORIGINAL,
    Bits,
    Concat,
    ConnectionLimit,
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

MAX_VALUES = 8
_VERDICTS = {
    Verdict.ACCEPT: "accept",
    Verdict.DROP: "drop",
    Verdict.RETURN: "go back",
    Verdict.QUEUE: "hand to a program",
}
_ONLY_ASKING = frozenset({"match", "limit", "quota", "ct count", "meter"})
_META = {
    "iifname": "arrives at",
    "oifname": "leaves by",
    "iif": "arrives at",
    "oif": "leaves by",
    "l4proto": "protocol",
    "nfproto": "family",
    "mark": "mark",
    "skuid": "sent by user",
}


def sentence(rule: Rule) -> str:
    """`tcp port 443: accept (client to server: https)`."""
    conditions = [text for one in rule.statements if (text := condition_text(one))]
    deeds = [text for one in rule.statements if (text := deed_text(one))]
    text = f"{', '.join(conditions) or 'everything'}: {', '.join(deeds) or 'only counted'}"
    return f"{text} ({rule.comment})" if rule.comment else text


def condition_text(statement: Statement) -> str:
    """What a packet must be for the rule to continue; empty when `statement` asks nothing."""
    match statement:
        case Match():
            return _match_text(statement)
        case Limit(count, period, over=over):
            return f"{'over' if over else 'at most'} {count} a {period}"
        case ConnectionLimit(count, over):
            return f"{'more than' if over else 'at most'} {count} connections"
        case SetUpdate(limits=limits):
            asked = [text for one in limits if (text := _limit_text(one))]
            return f"{' and '.join(asked)} for each {_field_text(statement.element)}" if asked else ""
        case Raw(said) if statement.kind in _ONLY_ASKING:
            return json.dumps(said)
    return ""


def _limit_text(limit: Statement) -> str:
    """Of a set or meter; one that is not known may ask for anything."""
    return json.dumps(limit.json) if isinstance(limit, Raw) else condition_text(limit)


def deed_text(statement: Statement) -> str:
    """What a rule does; empty when `statement` only asks."""
    match statement:
        case Decision() | Reject():
            return verdict_text(statement)
        case VerdictMap(key):
            return f"by {_field_text(key)}"
        case NamedCounter(name):
            return f"count as {name}"
        case Log(prefix):
            return f"log as {prefix.strip()!r}" if prefix else "log"
        case Helper(name):
            return f"follow its announcements ({name})"
        case Translate():
            return _translation_text(statement)
        case Notrack():
            return "not tracked"
        case SetUpdate(operation, element, name) if not condition_text(statement):
            return f"{operation} {_field_text(element)} to @{name}"
        case Raw() if statement.kind not in _ONLY_ASKING:
            return json.dumps(statement.json)
    return ""


def verdict_text(verdict: Statement | Value) -> str:
    match verdict:
        case Decision(Verdict.JUMP | Verdict.GOTO, chain):
            return f"see {chain}"
        case Decision(kind):
            return _VERDICTS[kind]
        case Reject(kind):
            return "reject with a reset" if kind == "tcp reset" else "reject"
        case Raw(said):
            return json.dumps(said)
    return str(verdict)


def _translation_text(becomes: Translate) -> str:
    if becomes.kind == "masquerade":
        return "leaves with the address of the interface"
    where = "the same address" if becomes.address is None else value_text(becomes.address)
    port = "" if becomes.port is None else f" port {value_text(becomes.port)}"
    return f"{'leaves as' if becomes.kind == 'snat' else 'goes to'} {where}{port}"


def _match_text(asked: Match) -> str:
    relation = {"==": "", "in": "", "!=": "not "}.get(asked.operator, f"{asked.operator} ")
    if asked.field == Meta("nfproto") and asked.operator == "==":
        family = value_text(asked.value)
        return {"ipv4": "IPv4", "ipv6": "IPv6"}.get(family, f"family {family}")
    return f"{_field_text(asked.field)} {relation}{value_text(asked.value)}"


def _field_text(field: Value) -> str:
    match field:
        case Meta(key):
            return _META.get(key, key)
        case Payload("ip" | "ip6", "saddr"):
            return "from"
        case Payload("ip" | "ip6", "daddr"):
            return "to"
        case Payload(protocol, name):
            known = {"dport": "port", "sport": "source port", "type": "type"}
            return f"{'tcp or udp' if protocol == 'th' else protocol} {known.get(name, name)}"
        case Ct("state"):
            return "connection"
        case Ct("ip daddr" | "ip6 daddr", direction) if direction == ORIGINAL:
            return "asked for at"
        case Ct("proto-dst", direction) if direction == ORIGINAL:
            return "asked for at port"
        case Ct(key):
            return f"connection's {key}"
        case Fib(result, flags):
            return f"route by {' and '.join(flags)} ({result})"
        case Concat(parts):
            return " and ".join(_field_text(part) for part in parts)
        case Masked(inner, _):
            return _field_text(inner)
    return value_text(field)


def value_text(value: Value) -> str:
    match value:
        case bool():
            return "there" if value else "missing"
        case str() | int():
            return str(value)
        case NamedSet(name):
            return f"in {name}"
        case OneOf(values) | Bits(values):
            shown = ", ".join(value_text(one) for one in values[:MAX_VALUES])
            more = len(values) - MAX_VALUES
            return f"{shown} and {more} more" if more > 0 else shown
        case Prefix(address, length):
            return f"{address}/{length}"
        case Range(first, last):
            return f"{first}-{last}"
        case Concat(parts):
            return " and ".join(value_text(part) for part in parts)
        case Raw(said):
            return json.dumps(said)
    return _field_text(value)
