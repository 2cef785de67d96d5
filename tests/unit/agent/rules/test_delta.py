# SPDX-License-Identifier: GPL-2.0-or-later
"""From one table to another: what is touched, what keeps its counts, and what is said of the difference."""

import json
from dataclasses import replace
from typing import Any

import pytest

from agent.config import loader
from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules import Commands, compile_table
from agent.rules.delta import compile_change, model_of
from agent.rules.diff import changes, parts_of, to_sentence, to_text
from agent.rules.nft_json import (
    ACCEPT,
    COUNTER,
    TABLE,
    add_chain,
    add_counter,
    add_rule,
    add_set,
    match,
    payload,
)
from tests.checkout import EXAMPLES

EXAMPLE = (EXAMPLES / "pair.yaml").read_text()
ZONES = {"eth0": "server", "eth1": "client"}


def pair_with(allow: str) -> Pair:
    """The example with other services from the clients to the server."""
    old = "allow: [ssh, http, https, ftp, icmp, {udp: 5353}, {tcp: 8000-8100}]"
    assert old in EXAMPLE
    return loader.parse(EXAMPLE.replace(old, f"allow: {allow}"))


def port_rule(port: int) -> Any:
    return add_rule(
        TABLE, "a", match(payload("tcp", "dport"), port), COUNTER, ACCEPT, comment=f"port {port}"
    )


def flat(commands: Commands) -> list[str]:
    listed: list[Any] = list(commands)
    return [f"{verb} {kind}" for command in listed for verb, body in command.items() for kind in body]


def test_nothing_is_touched_that_stays_the_same() -> None:
    table = compile_table(pair_with("[ssh]"), RuleSet.PRIMARY)
    assert compile_change(table, table, {}) == ()


def test_one_more_service_touches_one_chain() -> None:
    before, after = (
        compile_table(pair_with(allow), RuleSet.PRIMARY) for allow in ("[ssh, http]", "[ssh, https, http]")
    )
    change = compile_change(before, after, {})
    assert change is not None
    listed: list[Any] = json.loads(json.dumps(change))
    flushed = [command["flush"]["chain"]["name"] for command in listed if "flush" in command]
    assert len(flushed) == 2
    assert "from/eth1/to/eth0" in flushed
    assert next(name for name in flushed if name != "from/eth1/to/eth0").startswith("digest-")
    assert not [one for one in flat(change) if "counter" in one or "set" in one or one == "delete table"]


def test_a_rule_that_stays_keeps_counting_where_it_was() -> None:
    before = (add_chain(TABLE, "a"), port_rule(1), port_rule(2), port_rule(1))
    after = (add_chain(TABLE, "a"), port_rule(3), port_rule(1), port_rule(1), port_rule(1))
    change = compile_change(before, after, {"a": [(10, 100), (20, 200), (30, 300)]})
    assert change is not None
    rules: list[Any] = list(model_of(change).rules["a"])
    counters = [rule["expr"][1] for rule in rules]
    assert counters == [
        COUNTER,
        {"counter": {"packets": 10, "bytes": 100}},
        {"counter": {"packets": 30, "bytes": 300}},
        COUNTER,
    ]


def test_counts_of_another_table_are_nobodys() -> None:
    before, after = (
        (add_chain(TABLE, "a"), port_rule(1)),
        (add_chain(TABLE, "a"), port_rule(1), port_rule(2)),
    )
    change = compile_change(before, after, {"a": [(10, 100), (20, 200)]})
    assert change is not None
    assert '"packets"' not in json.dumps(change)


def test_one_element_costs_one_element() -> None:
    many: list[Any] = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    before = (add_set(TABLE, "s", "ipv4_addr", many),)
    after = (add_set(TABLE, "s", "ipv4_addr", [*many[1:], "10.9.9.9"]),)
    change = compile_change(before, after, {})
    assert change is not None
    assert [json.loads(json.dumps(command)) for command in change] == [
        {"delete": {"element": {"family": "inet", "table": "hafw", "name": "s", "elem": ["10.0.0.1"]}}},
        {
            "add": {
                "set": {
                    "family": "inet",
                    "table": "hafw",
                    "name": "s",
                    "type": "ipv4_addr",
                    "elem": ["10.9.9.9"],
                }
            }
        },
    ]


def test_what_cannot_be_changed_in_place_is_recreated() -> None:
    assert (
        compile_change((add_set(TABLE, "s", "ipv4_addr", []),), (add_set(TABLE, "s", "ipv6_addr", []),), {})
        is None
    )
    hooked = compile_table(pair_with("[ssh]"), RuleSet.BACKUP)
    moved = json.loads(json.dumps(hooked).replace('"prio": -450', '"prio": -451'))
    assert compile_change(hooked, tuple(moved), {}) is None


def test_objects_come_before_and_go_after_the_rules_that_name_them() -> None:
    before = (
        add_counter(TABLE, "old"),
        add_chain(TABLE, "a"),
        add_chain(TABLE, "b"),
        add_rule(TABLE, "a", {"counter": "old"}),
    )
    after = (
        add_counter(TABLE, "new"),
        add_chain(TABLE, "a"),
        add_chain(TABLE, "c"),
        add_rule(TABLE, "a", {"counter": "new"}),
    )
    change = compile_change(before, after, {})
    assert change is not None
    assert flat(change) == [
        "add counter",
        "add chain",
        "flush chain",
        "flush chain",
        "add rule",
        "delete chain",
        "delete counter",
    ]


def told(before: Pair, after: Pair) -> str:
    tables = (parts_of(compile_table(pair, RuleSet.BACKUP)) for pair in (before, after))
    return to_text(changes(*tables), ZONES)


def test_a_difference_is_told_in_zones_and_services() -> None:
    assert told(pair_with("[ssh, http]"), pair_with("[ssh, https]")) == (
        "from client (eth1) to server (eth0):\n"
        "  - tcp port 80: accept (client to server: http)\n"
        "  + tcp port 443: accept (client to server: https)\n"
    )


def test_the_same_rules_differ_in_nothing_whatever_the_role() -> None:
    pair = pair_with("[ssh]")
    parts = [parts_of(compile_table(pair, role)) for role in RuleSet]
    assert changes(parts[0], parts[1]) == ()
    assert told(pair, replace(pair, gate=replace(pair.gate, limit_s=3.0))) == ""


def test_a_record_gets_a_few_words_of_a_large_difference() -> None:
    found = changes((), tuple((f"chain {name}", json.dumps(port_rule(1)["add"])) for name in "abcdef"))
    assert to_sentence(found) == (
        "; ".join(f"chain {name} has more: tcp port 1: accept (port 1)" for name in "abcd") + "; and 2 more"
    )


@pytest.mark.parametrize("text", ["", "x" * 10, '"', "[1"])
def test_an_element_that_is_no_json_is_told_as_it_is(text: str) -> None:
    body = {"set": {"name": "s", "type": "ipv4_addr", "elem": [text]}}
    assert changes((), (("set s", json.dumps(body)),))[-1].text == text
