# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules in words, from their libnftables JSON: ours, and those of external changes. Pure."""

import json
from collections.abc import Mapping

from agent.rules.simulate import NEUTRAL, decision_in

MAX_VALUES = 8
_VERDICTS = {"accept": "accept", "drop": "drop", "return": "go back", "queue": "hand to a program"}
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


def sentence(rule: Mapping[str, object]) -> str:
    """`tcp port 443: accept (client to server: https)`."""
    conditions, deeds = _parts(rule)
    what = ", ".join(deeds) or "only counted"
    text = f"{', '.join(conditions) or 'everything'}: {what}"
    comment = rule.get("comment")
    return f"{text} ({comment})" if comment else text


def _parts(rule: Mapping[str, object]) -> tuple[list[str], list[str]]:
    conditions: list[str] = []
    deeds: list[str] = []
    expressions = rule.get("expr")
    for expression in expressions if isinstance(expressions, list | tuple) else ():
        if not isinstance(expression, Mapping):
            continue
        condition, deed = condition_text(expression), deed_text(expression)
        conditions += [condition] if condition else []
        deeds += [deed] if deed else []
    return conditions, deeds


def condition_text(expression: Mapping[str, object]) -> str:
    """What a packet must be for the rule to continue; empty when `expression` asks nothing."""
    match expression:
        case {"match": {"left": left, "right": right, **rest}}:
            operator = str(rest.get("op", "=="))
            return _match_text(left, operator, right)
        case {"limit": {"rate": rate, **rest}}:
            return f"{'over' if rest.get('inv') else 'at most'} {rate} a {rest.get('per', 'second')}"
        case {"ct count": {"val": number, **rest}}:
            return f"{'more than' if rest.get('inv') else 'at most'} {number} connections"
        case {"set": {"stmt": [*inner], "elem": elem}} | {"meter": {"stmt": [*inner], "key": elem}}:
            asked = [condition_text(one) for one in inner if isinstance(one, Mapping)]
            return f"{' and '.join(asked)} for each {_left_text(elem)}" if any(asked) else ""
    return ""


def deed_text(expression: Mapping[str, object]) -> str:
    """What a rule does; empty when `expression` only asks."""
    if decision_in(expression) is not NEUTRAL:
        return verdict_text(expression)
    match expression:
        case {"vmap": {"key": key}}:
            return f"by {_left_text(key)}"
        case {"counter": str(name)}:
            return f"count as {name}"
        case {"log": body}:
            prefix = body.get("prefix") if isinstance(body, Mapping) else None
            return f"log as {str(prefix).strip()!r}" if prefix else "log"
        case {"ct helper": str(name)}:
            return f"follow its announcements ({name})"
        case {"snat": Mapping() as body}:
            return _nat_text("leaves as", body)
        case {"dnat": Mapping() as body}:
            return _nat_text("goes to", body)
        case {"masquerade": _}:
            return "leaves with the address of the interface"
        case {"notrack": _}:
            return "not tracked"
    if {"match", "limit", "ct count", "counter", "meter"} & set(expression):
        return ""
    match expression:
        case {"set": {"op": str(verb), "set": str(name), **rest}}:
            return "" if rest.get("stmt") else f"{verb} {_left_text(rest.get('elem'))} to {name}"
    return json.dumps(expression)


def verdict_text(expression: Mapping[str, object]) -> str:
    match expression:
        case {"jump": {"target": str(target)}} | {"goto": {"target": str(target)}}:
            return f"see {target}"
        case {"reject": {"type": "tcp reset"}}:
            return "reject with a reset"
        case {"reject": _}:
            return "reject"
    return next((_VERDICTS[kind] for kind in expression if kind in _VERDICTS), json.dumps(expression))


def _nat_text(verb: str, body: Mapping[str, object]) -> str:
    address, port = body.get("addr"), body.get("port")
    where = value_text(address) if address is not None else "the same address"
    return f"{verb} {where}" + (f" port {value_text(port)}" if port is not None else "")


def _match_text(left: object, operator: str, right: object) -> str:
    relation = {"==": "", "in": "", "!=": "not "}.get(operator, f"{operator} ")
    match left:
        case {"meta": {"key": "nfproto"}} if operator == "==":
            return {"ipv4": "IPv4", "ipv6": "IPv6"}.get(str(right), f"family {right}")
    return f"{_left_text(left)} {relation}{value_text(right)}"


def _left_text(left: object) -> str:
    match left:
        case {"meta": {"key": str(key)}}:
            return _META.get(key, key)
        case {"payload": {"protocol": "ip" | "ip6", "field": "saddr"}}:
            return "from"
        case {"payload": {"protocol": "ip" | "ip6", "field": "daddr"}}:
            return "to"
        case {"payload": {"protocol": str(protocol), "field": str(name)}}:
            known = {"dport": "port", "sport": "source port", "type": "type"}
            return f"{'tcp or udp' if protocol == 'th' else protocol} {known.get(name, name)}"
        case {"ct": {"key": "state"}}:
            return "connection"
        case {"ct": {"key": "ip daddr" | "ip6 daddr", "dir": "original"}}:
            return "asked for at"
        case {"ct": {"key": "proto-dst", "dir": "original"}}:
            return "asked for at port"
        case {"ct": {"key": str(key)}}:
            return f"connection's {key}"
        case {"fib": {"flags": [*flags], "result": result}}:
            return f"route by {' and '.join(str(flag) for flag in flags)} ({result})"
        case {"concat": [*parts]}:
            return " and ".join(_left_text(part) for part in parts)
        case {"elem": {"val": value}}:
            return _left_text(value)
        case {"&": [inner, *_]}:
            return _left_text(inner)
    return json.dumps(left)


def value_text(value: object) -> str:
    match value:
        case str() if value.startswith("@"):
            return f"in {value[1:]}"
        case {"set": [*values]} | [*values]:
            shown = ", ".join(value_text(one) for one in values[:MAX_VALUES])
            more = len(values) - MAX_VALUES
            return f"{shown} and {more} more" if more > 0 else shown
        case {"set": one}:
            return value_text(one)
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"concat": [*parts]}:
            return " and ".join(value_text(part) for part in parts)
        case {"elem": {"val": inner}}:
            return value_text(inner)
        case bool():
            return "there" if value else "missing"
        case str() | int():
            return str(value)
    return json.dumps(value)
