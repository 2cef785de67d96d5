# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists is read, or kept as it is. Nothing that it says is left out."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from agent.config.loader import load
from agent.core.roles import RuleSet
from agent.rules.compile import compile_pair
from agent.rules.describe import sentence
from agent.rules.nft_json import object_json
from agent.rules.nft_parse import parse_object, parse_rule, parse_statement
from agent.rules.objects import Object, Rule, Set
from agent.rules.statements import (
    IIFNAME,
    Bits,
    ConnectionLimit,
    Count,
    Ct,
    Limit,
    Match,
    NamedSet,
    Payload,
    Prefix,
    Raw,
    SetUpdate,
    Statement,
    Translate,
    VerdictMap,
)
from tests.checkout import GOLDEN

Json = Any  # as it was decoded
SOURCE = Payload("ip", "saddr")
SOURCE_JSON = {"payload": {"protocol": "ip", "field": "saddr"}}
TUNNEL_JSON = {"payload": {"tunnel": "vxlan", "protocol": "ip", "field": "saddr"}}
PREFIX_JSON = {"prefix": {"addr": "10.0.0.0", "len": 8}}
IN_STATE = Match(Ct("state"), Bits(("new", "related")), "in")
METER = SetUpdate("meter", SOURCE, "m", (Limit(1, "second"),))
QUOTA = {"quota": {"val": 5, "val_unit": "mbytes", "inv": True}}
IN_BYTES = {"limit": {"rate": 5, "burst": 7, "per": "hour", "rate_unit": "kbytes", "burst_unit": "bytes"}}
WITH_TIMEOUT = {"op": "add", "elem": {"elem": {"val": SOURCE_JSON, "timeout": 60}}, "set": "@s"}


@pytest.mark.parametrize(
    ("listed", "read"),
    [
        # as 1.0.6 and 1.1.3 list them, and as other programs write them
        ({"ct count": {"val": 5}}, ConnectionLimit(5)),
        ({"counter": {"packets": 3, "bytes": 200}}, Count((3, 200))),
        ({"limit": {"rate": 5, "burst": 7, "per": "hour", "rate_unit": "packets"}}, Limit(5, "hour", 7)),
        ({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new", "related"]}}, IN_STATE),
        ({"meter": {"key": SOURCE_JSON, "name": "m", "size": 9, "stmt": {"limit": {"rate": 1}}}}, METER),
        (
            {"dnat": {"addr": PREFIX_JSON, "flags": "netmap", "type_flags": "prefix"}},
            Translate("dnat", "", Prefix("10.0.0.0", 8), None, ("netmap",)),
        ),
        (
            {"vmap": {"key": {"meta": {"key": "iifname"}}, "data": "@ways"}},
            VerdictMap(IIFNAME, NamedSet("ways")),
        ),
        ({"match": {"left": TUNNEL_JSON, "right": "10.0.0.1"}}, Match(Raw(TUNNEL_JSON), "10.0.0.1")),
        (
            {"set": WITH_TIMEOUT},
            SetUpdate("add", Raw(WITH_TIMEOUT["elem"]), "s"),
        ),
        *(
            (one, Raw(one))
            for one in (
                IN_BYTES,
                {"limit": "a named one"},
                {"jump": 3},
                {"jump": {"target": "c", "after": 1}},
                {"queue": {"num": 1}},
                {"log": {"prefix": "x", "group": 2}},
                {"drop": None, "accept": None},
                {},
                "what 1.0.6 has no JSON for",
            )
        ),
    ],
)
def test_what_nft_lists_is_read_or_kept_as_it_is(listed: Json, read: Statement) -> None:
    assert parse_statement(listed) == read


def golden_objects() -> Mapping[str, Object]:
    """By their JSON: each once."""
    cases = (compile_pair(load(case / "hafw.yaml")) for case in sorted((GOLDEN / "rules").iterdir()))
    found = (one for compiled in cases for one in compiled.objects(RuleSet.BACKUP))
    return {json.dumps(object_json(one)): one for one in found}


def with_a_key_more(value: Json) -> Iterator[Json]:
    """`value` with a key more in each of the objects that it is made of, one at a time."""
    if isinstance(value, dict):
        yield {**value, "unheard": 1}
        yield from ({**value, key: more} for key, inner in value.items() for more in with_a_key_more(inner))
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from ([*value[:number], more, *value[number + 1 :]] for more in with_a_key_more(inner))


def test_a_key_that_is_not_known_is_a_difference_wherever_it_stands() -> None:
    statements: dict[str, Statement] = {}
    for text, compiled in golden_objects().items():
        ((kind, body),) = json.loads(text).items()
        if isinstance(compiled, Rule):
            statements |= zip(map(json.dumps, body["expr"]), compiled.statements, strict=True)
        # a few of many
        body |= {key: body[key][:2] for key in ("expr", "elem") if key in body}
        one = parse_object(kind, body)
        for changed in with_a_key_more(body):
            assert parse_object(kind, changed) != one, changed
    assert len(statements) > 100
    for text, statement in statements.items():
        for changed in with_a_key_more(json.loads(text)):
            assert parse_statement(changed) != statement, changed


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (IN_BYTES, f"{json.dumps(IN_BYTES)}: drop"),
        (QUOTA, f"{json.dumps(QUOTA)}: drop"),
        ({"queue": {"num": 1}}, 'everything: {"queue": {"num": 1}}, drop'),
        ({"match": {"left": TUNNEL_JSON, "right": "x"}}, f"{json.dumps(TUNNEL_JSON)} x: drop"),
    ],
)
def test_words_say_what_is_not_understood(expression: Json, text: str) -> None:
    assert sentence(parse_rule({"expr": [expression, {"drop": None}]})) == text


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ([QUOTA], f"{json.dumps(QUOTA)} for each from: drop"),
        ([{"counter": None}, QUOTA], f"{json.dumps(QUOTA)} for each from: drop"),
        (
            [{"limit": {"rate": 5, "per": "minute"}}, {"counter": None}],
            "at most 5 a minute for each from: drop",
        ),
        ([{"unheard": 1}], '{"unheard": 1} for each from: drop'),
        ([{"counter": None}], "everything: update from to @s, drop"),
        ([], "everything: update from to @s, drop"),
    ],
)
def test_a_set_or_what_is_counted_in_it_is_in_words(limits: list[Json], text: str) -> None:
    update = {"set": {"op": "update", "elem": SOURCE_JSON, "set": "@s", "stmt": limits}}
    assert sentence(parse_rule({"expr": [update, {"drop": None}]})) == text


def test_a_rule_with_a_key_more_says_so() -> None:
    rule = parse_rule({"expr": [{"drop": None}], "handle": 3, "position": 2})
    assert sentence(rule) == 'everything: drop, {"position": 2}'


def test_how_long_an_element_stays_says_nothing_about_a_packet() -> None:
    elements = [
        {"elem": {"val": "10.0.0.1", "timeout": 60, "expires": 3}},
        {"elem": {"val": "x", "comment": "y"}},
    ]
    found = parse_object("set", {"table": "hafw", "name": "s", "type": "ipv4_addr", "elem": elements})
    assert found == Set("hafw", "s", ("ipv4_addr",), ("10.0.0.1", Raw(elements[1])))
