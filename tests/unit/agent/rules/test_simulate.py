# SPDX-License-Identifier: GPL-2.0-or-later
"""What a table says of a packet as far as it is known, and the words for it."""

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent.config import loader
from agent.core.roles import RuleSet
from agent.rules.compile import compile_pair
from agent.rules.connections import ConntrackState, Ways, find_forbidden
from agent.rules.delta import Model, model_of
from agent.rules.describe import sentence
from agent.rules.nft_json import object_json
from agent.rules.nft_parse import parse_rule
from agent.rules.objects import TABLE, Chain, Rule, Set, base_chain, make_rule
from agent.rules.show import show
from agent.rules.simulate import Packet, Truth, verdict_of
from agent.rules.statements import (
    ACCEPT,
    DROP,
    IIFNAME,
    OIFNAME,
    ConnectionLimit,
    Limit,
    Match,
    Meta,
    NamedSet,
    OneOf,
    Payload,
    Prefix,
    Range,
    Raw,
    Reject,
    Statement,
    Verdict,
    concat,
    jump,
    verdict_map,
)
from agent.rules.trace import Event, explain
from tests.checkout import GOLDEN

PAIR = loader.load(GOLDEN / "rules" / "described" / "hafw.yaml")
LOADED = model_of(compile_pair(PAIR).objects(RuleSet.PRIMARY))
CLIENT, SERVER = ip_address("192.168.2.10"), ip_address("192.168.0.10")
TCP, UDP, ICMP = 6, 17, 1


def through(protocol: int, port: int, iifname: str = "eth1", oifname: str = "eth0") -> Packet:
    return Packet(iifname, oifname, CLIENT, SERVER, protocol, 40_000, port, "new", translated=Truth.NO)


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (through(TCP, 443), "accept"),
        (through(TCP, 8050), "accept"),
        (through(TCP, 8101), "drop"),
        (through(UDP, 443), "drop"),
        (through(UDP, 5353), "accept"),
        (through(ICMP, 8), "accept"),
        (through(ICMP, 13), "drop"),
        (through(TCP, 443, "eth0", "eth1"), "drop"),
        (through(TCP, 443, "eth2"), "drop"),
    ],
)
def test_the_verdict_on_what_is_known(packet: Packet, verdict: str) -> None:
    assert verdict_of(LOADED, "forward", packet) is Verdict(verdict)


def test_what_depends_on_the_unknown_is_unknown() -> None:
    assert verdict_of(LOADED, "forward", Packet(iifname="eth1", oifname="eth0")) is Verdict.UNKNOWN
    # but not when it makes no difference
    from_sync = Packet(iifname="eth2", saddr=CLIENT, ct_state="new")
    assert verdict_of(LOADED, "forward", from_sync) is Verdict.DROP


SOURCE = Payload("ip", "saddr")
SOURCE_JSON = {"payload": {"protocol": "ip", "field": "saddr"}}


def one_chain(*rules: Rule) -> Model:
    base = base_chain(TABLE, "c", "forward", 0)
    sets = (
        Set(TABLE, "s", ("ipv4_addr",), ("192.168.2.10",)),
        Set(TABLE, "limit/x", ("ipv4_addr",), flags=("timeout",)),
    )
    return model_of((base, Chain(TABLE, "other"), *sets, *rules))


@pytest.mark.parametrize(
    ("statements", "verdict"),
    [
        ((Match(SOURCE, NamedSet("s")), DROP), "drop"),
        ((Match(SOURCE, NamedSet("s"), "!="), DROP), "accept"),
        ((Match(SOURCE, NamedSet("limit/x")), DROP), "unknown"),
        ((Match(Payload("ip6", "saddr"), "fd00::1", "!="), DROP), "accept"),
        ((Match(SOURCE, Prefix("192.168.0.0", 16)), DROP), "drop"),
        ((Match(SOURCE, Range("192.168.2.0", "192.168.2.9")), DROP), "accept"),
        ((Match(Payload("th", "dport"), OneOf((1, Range(400, 500)))), DROP), "drop"),
        ((Match(Meta("l4proto"), OneOf(("udp", "tcp"))), DROP), "drop"),
        ((Limit(1, "second"), DROP), "drop"),
        ((Limit(1, "second", over=True), DROP), "accept"),
        ((ConnectionLimit(1, over=True), DROP), "accept"),
        ((Raw({"no such thing": 1}), DROP), "unknown"),
        ((Raw({"queue": {"num": 1}}),), "unknown"),
        ((Match(SOURCE, "192.168.2.9"), Raw({"reject": {"unheard": 1}})), "accept"),
        ((Raw({"log": {"group": 1}}), Raw({"snat": {"unheard": 1}}), DROP), "drop"),
        ((jump("c"),), "unknown"),
        ((jump("other"), DROP), "accept"),
        ((Reject(),), "reject"),
        ((verdict_map(concat(IIFNAME, OIFNAME), [(concat("eth1", "eth*"), DROP)]),), "drop"),
        ((verdict_map(concat(IIFNAME, OIFNAME), [(concat("eth1", "eth9"), DROP)]),), "accept"),
        ((verdict_map(IIFNAME, [("eth1", jump("other"))]), ACCEPT), "accept"),
    ],
)
def test_a_rule_of_each_kind(statements: tuple[Statement, ...], verdict: str) -> None:
    table = one_chain(make_rule(TABLE, "c", *statements))
    assert verdict_of(table, "c", through(TCP, 443)) is Verdict(verdict)


def state(source: str, target: str, port: int, **more: Any) -> ConntrackState:
    known: dict[str, Any] = {"daddr": target, "target_port": port, "expected": False, **more}
    ends = [ip_address(address) for address in (source, known.pop("daddr"), target)]
    ports = (40_000, port, ends[2], known["target_port"])
    return ConntrackState(2, b"", ends[0], ends[1], TCP, *ports, known["expected"], known.get("master"))


def test_connections_are_judged_by_where_they_really_go() -> None:
    routes = tuple((interface.networks[0], interface.name) for interface in PAIR.interfaces)
    ways = Ways(routes, frozenset({ip_address("192.168.2.1")}))
    kept = [
        state("192.168.2.10", "192.168.0.10", 443),
        state("192.168.2.10", "192.168.2.1", 22),
        # what this node has begun itself
        state("192.168.2.1", "192.168.2.10", 9999),
        state("192.168.2.1", "192.168.0.10", 9999),
        state("192.168.2.10", "192.168.0.10", 9999, expected=True),
        state("192.168.2.10", "198.51.100.1", 9999),
        state("192.168.2.10", "192.168.0.10", 9999, target_port=443),
    ]
    forbidden = [
        state("192.168.2.10", "192.168.0.10", 9999),
        state("192.168.2.10", "192.168.0.10", 443, daddr="192.168.2.100", target_port=9999),
        state("192.168.0.10", "192.168.2.10", 443),
        state("192.168.2.10", "192.168.2.1", 9999),
        state("192.168.2.10", "192.168.2.1", 9999, daddr="192.168.2.100"),
        state("192.168.2.10", "224.0.0.251", 5353),
        state("192.168.2.10", "255.255.255.255", 9999),
    ]
    assert find_forbidden(LOADED, [*kept, *forbidden], ways) == forbidden


def test_what_a_connection_has_announced_ends_with_it() -> None:
    routes = tuple((interface.networks[0], interface.name) for interface in PAIR.interfaces)
    ways = Ways(routes, frozenset())
    allowed, forbidden = (
        state("192.168.2.10", "192.168.0.10", 443),
        state("192.168.2.10", "192.168.0.10", 9999),
    )
    kept = state("192.168.0.10", "192.168.2.10", 5000, expected=True, master=allowed.ends)
    data = state("192.168.0.10", "192.168.2.10", 5001, expected=True, master=forbidden.ends)
    more = state("192.168.2.10", "192.168.0.10", 5002, expected=True, master=data.ends)
    found = find_forbidden(LOADED, [more, kept, data, allowed, forbidden], ways)
    assert found == [forbidden, data, more]


def test_an_address_of_the_link_is_judged_by_every_interface_that_it_may_be_behind() -> None:
    link = ip_network("fe80::/64")
    own = ip_address("fe80::1")
    allowed, other = state("fe80::9", "fe80::1", 8000), state("fe80::9", "fe80::1", 8001)
    table = model_of(
        (
            base_chain(TABLE, "input", "input", 0, policy="drop"),
            make_rule(TABLE, "input", Match(IIFNAME, "eth1"), Match(Payload("tcp", "dport"), 8000), ACCEPT),
        )
    )
    for order in (("eth0", "eth1"), ("eth1", "eth0")):
        ways = Ways(tuple((link, name) for name in order), frozenset({own}))
        assert find_forbidden(table, [allowed, other], ways) == [other]


@pytest.mark.parametrize(
    ("expressions", "text"),
    [
        ([], "everything: only counted"),
        ([{"drop": None}], "everything: drop"),
        (
            [{"match": {"op": "!=", "left": SOURCE_JSON, "right": "@s"}}, {"accept": None}],
            "from not in s: accept",
        ),
        ([{"limit": {"rate": 5, "per": "minute", "inv": True}}, {"drop": None}], "over 5 a minute: drop"),
        ([{"dnat": {"addr": "10.0.0.1", "port": 80}}], "everything: goes to 10.0.0.1 port 80"),
        ([{"masquerade": None}], "everything: leaves with the address of the interface"),
        ([{"reject": {"type": "tcp reset"}}], "everything: reject with a reset"),
        ([{"log": {"prefix": "web: "}}, {"drop": None}], "everything: log as 'web:', drop"),
        ([{"unheard": 1}], 'everything: {"unheard": 1}'),
    ],
)
def test_words(expressions: list[Any], text: str) -> None:
    assert sentence(parse_rule({"expr": expressions})) == text
    assert sentence(parse_rule({"expr": expressions, "comment": "why"})) == f"{text} (why)"


def test_no_rule_of_ours_is_without_words() -> None:
    for rules in LOADED.rules.values():
        for rule in rules:
            assert "{" not in sentence(rule)


def test_show_leaves_out_what_cannot_match_the_interface() -> None:
    texts = [json.dumps(object_json(one)) for one in compile_pair(PAIR).objects(RuleSet.PRIMARY)]
    entries = [entry for text in texts for entry in json.loads(text).items()]
    of = {name: [line.text for line in show(entries, {}, name).lines] for name in ("eth0", "eth1", "eth2")}
    assert "tcp port 443: accept (client to server: https)" in of["eth1"]
    assert "tcp port 443: accept (client to server: https)" not in of["eth0"]
    assert any("no forwarding over the sync link" in text for text in of["eth2"])
    assert not any("leaves by eth2" in text for text in of["eth2"]), "all is dropped before"
    assert show(entries, {}, "eth9").names == ("eth0", "eth1", "eth2", "lo")


def test_a_trace_without_a_verdict_says_so() -> None:
    event = Event("policy", "inet", "hafw", "gate", None, "accept")
    assert explain([event], {}, ["forward", "input"]).verdict is None
    assert explain([], {}, ["forward", "input"]).verdict is None
