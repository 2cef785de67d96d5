# SPDX-License-Identifier: GPL-2.0-or-later
"""From one table to another: what is touched, what keeps its counts, and what is said of the difference."""

from dataclasses import replace

from agent.config import loader
from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules.compile import compile_pair
from agent.rules.delta import compile_change, model_of
from agent.rules.diff import changes, lines_of, to_sentence, to_text
from agent.rules.objects import (
    TABLE,
    Chain,
    Command,
    Commands,
    CounterObject,
    DeleteElements,
    Rule,
    Set,
    Verb,
    base_chain,
    make_rule,
)
from agent.rules.statements import ACCEPT, COUNTER, Count, Match, NamedCounter, Payload, Raw
from tests.checkout import EXAMPLES

EXAMPLE = (EXAMPLES / "pair.yaml").read_text()
ZONES = {"eth0": "server", "eth1": "client"}


def pair_with(allow: str) -> Pair:
    """The example with other services from the clients to the server."""
    old = "allow: [ssh, http, https, ftp, icmp, {udp: 5353}, {tcp: 8000-8100}]"
    assert old in EXAMPLE
    return loader.parse(EXAMPLE.replace(old, f"allow: {allow}"))


def port_rule(port: int) -> Rule:
    return make_rule(
        TABLE, "a", Match(Payload("tcp", "dport"), port), COUNTER, ACCEPT, comment=f"port {port}"
    )


def flat(commands: Commands) -> list[str]:
    return [f"{one.verb.value} {one.target.kind}" for one in commands if isinstance(one, Command)]


def test_nothing_is_touched_that_stays_the_same() -> None:
    table = model_of(compile_pair(pair_with("[ssh]")).objects(RuleSet.PRIMARY))
    assert compile_change(table, table, {}) == ()


def test_one_more_service_touches_one_chain() -> None:
    before, after = (
        model_of(compile_pair(pair_with(allow)).objects(RuleSet.PRIMARY))
        for allow in ("[ssh, http]", "[ssh, https, http]")
    )
    change = compile_change(before, after, {})
    assert change is not None
    flushed = [one.target.part for one in change if isinstance(one, Command) and one.verb is Verb.FLUSH]
    assert len(flushed) == 2
    assert "chain from/eth1/to/eth0" in flushed
    assert next(name for name in flushed if name != "chain from/eth1/to/eth0").startswith("chain digest-")
    assert not [one for one in flat(change) if "counter" in one or "set" in one or one == "delete table"]


def test_a_rule_that_stays_keeps_counting_where_it_was() -> None:
    before = (Chain(TABLE, "a"), port_rule(1), port_rule(2), port_rule(1))
    after = (Chain(TABLE, "a"), port_rule(3), port_rule(1), port_rule(1), port_rule(1))
    change = compile_change(model_of(before), model_of(after), {"a": [(10, 100), (20, 200), (30, 300)]})
    assert change is not None
    counters = [one.target.statements[1] for one in change if isinstance(one.target, Rule)]
    assert counters == [COUNTER, Count((10, 100)), Count((30, 300)), COUNTER]


def test_counts_of_another_table_are_nobodys() -> None:
    before, after = (
        (Chain(TABLE, "a"), port_rule(1)),
        (Chain(TABLE, "a"), port_rule(1), port_rule(2)),
    )
    change = compile_change(model_of(before), model_of(after), {"a": [(10, 100), (20, 200)]})
    assert change is not None
    assert [one.target for one in change if isinstance(one.target, Rule)] == [port_rule(1), port_rule(2)]


def test_one_element_costs_one_element() -> None:
    many = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    before = (Set(TABLE, "s", ("ipv4_addr",), tuple(many)),)
    after = (Set(TABLE, "s", ("ipv4_addr",), (*many[1:], "10.9.9.9")),)
    change = compile_change(model_of(before), model_of(after), {})
    assert change is not None
    assert change == (
        DeleteElements(Set(TABLE, "s", ("ipv4_addr",), ("10.0.0.1",))),
        Command(Verb.ADD, Set(TABLE, "s", ("ipv4_addr",), ("10.9.9.9",))),
    )


def test_what_cannot_be_changed_in_place_is_recreated() -> None:
    of_four, of_six = (model_of((Set(TABLE, "s", (kind,)),)) for kind in ("ipv4_addr", "ipv6_addr"))
    assert compile_change(of_four, of_six, {}) is None
    early, late = (model_of((base_chain(TABLE, "c", "forward", priority),)) for priority in (-450, -451))
    assert compile_change(early, late, {}) is None


def test_objects_come_before_and_go_after_the_rules_that_name_them() -> None:
    before = (
        CounterObject(TABLE, "old"),
        Chain(TABLE, "a"),
        Chain(TABLE, "b"),
        make_rule(TABLE, "a", NamedCounter("old")),
    )
    after = (
        CounterObject(TABLE, "new"),
        Chain(TABLE, "a"),
        Chain(TABLE, "c"),
        make_rule(TABLE, "a", NamedCounter("new")),
    )
    change = compile_change(model_of(before), model_of(after), {})
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
    tables = (lines_of(compile_pair(pair).body) for pair in (before, after))
    return to_text(changes(*tables), ZONES)


def test_a_difference_is_reported_in_zones_and_services() -> None:
    assert told(pair_with("[ssh, http]"), pair_with("[ssh, https]")) == (
        "from client (eth1) to server (eth0):\n"
        "  - tcp port 80: accept (client to server: http)\n"
        "  + tcp port 443: accept (client to server: https)\n"
    )


def test_the_same_rules_differ_in_nothing() -> None:
    pair = pair_with("[ssh]")
    assert told(pair, replace(pair, gate=replace(pair.gate, limit_s=3.0))) == ""


def test_a_record_gets_a_few_words_of_a_large_difference() -> None:
    found = changes({}, lines_of(replace(port_rule(1), chain=name) for name in "abcdef"))
    assert to_sentence(found) == (
        "; ".join(f"chain {name} has more: tcp port 1: accept (port 1)" for name in "abcd") + "; and 2 more"
    )


def test_what_nft_says_more_of_a_part_is_reported() -> None:
    before, after = Chain(TABLE, "c"), Chain(TABLE, "c", more=Raw({"comment": "mine"}))
    found = changes(lines_of([before]), lines_of([after]))
    assert to_sentence(found) == 'chain c has more: {"comment": "mine"}'
