# SPDX-License-Identifier: GPL-2.0-or-later
"""The compiled rules against golden cases, and what must hold for every pair.

HAFW_WRITE_GOLDEN=1 writes the golden files again; read the diff before you keep it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from agent.config.loader import load, parse
from agent.core.roles import RuleSet
from agent.errors import ConfigError
from agent.model.pair import Interface, Management, Pair, PortRange, Protocol, Service
from agent.rules.compile import Compiled, compile_pair
from agent.rules.nft_json import command_json, object_json
from agent.rules.nft_parse import parse_object
from agent.rules.objects import FAMILY, GATE_TABLE, TABLES, Commands, Rule, Set, Table
from agent.rules.statements import Match, Meta, OneOf, Payload, Prefix, Range
from agent.rules.values import comment_text, elements, from_networks, intervals, of_version, ports
from tests.checkout import GOLDEN
from tests.unit.agent.small_pair import SMALL

FOLDER = GOLDEN / "rules"
CASES = sorted(case.name for case in FOLDER.iterdir())


def pair_of(case: str) -> Pair:
    return load(FOLDER / case / "hafw.yaml")


@pytest.fixture
def pair() -> Pair:
    return pair_of("described")


def text_of(commands: Commands) -> str:
    """One command a line, so that a diff shows what changed."""
    return "".join(f"{json.dumps(command_json(command))}\n" for command in commands)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rules", list(RuleSet))
@pytest.mark.parametrize(("name", "compiled"), [("table", Compiled.commands), ("flip", Compiled.flip)])
def test_golden(
    case: str, rules: RuleSet, name: str, compiled: Callable[[Compiled, RuleSet], Commands]
) -> None:
    golden = FOLDER / case / f"{name}-{rules.value}.jsonl"
    text = text_of(compiled(compile_pair(pair_of(case)), rules))
    if os.environ.get("HAFW_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_pair_without_management_is_not_compiled(pair: Pair) -> None:
    for management in (
        replace(pair.management, sources=()),
        replace(pair.management, services=()),
        Management((), ()),
    ):
        with pytest.raises(ConfigError, match="manage"):
            compile_pair(replace(pair, management=management)).commands(RuleSet.PRIMARY)
        with pytest.raises(ConfigError, match="manage"):
            compile_pair(replace(pair, management=management)).flip(RuleSet.BACKUP)


@pytest.mark.parametrize(
    "name", ["", "@own4", "eth*", 'eth"0', "eth0\n", "eth0;", "a/b", "e" * 16, "e 0", "ä"]
)
@pytest.mark.parametrize("place", range(3))
def test_a_name_that_says_more_than_a_name_is_not_compiled(pair: Pair, name: str, place: int) -> None:
    interfaces = list(pair.interfaces)
    interfaces[place] = replace(interfaces[place], name=name)
    with pytest.raises(ConfigError, match="not an interface name"):
        compile_pair(replace(pair, interfaces=tuple(interfaces))).commands(RuleSet.PRIMARY)


def test_interfaces_whose_names_read_alike_have_chains_of_their_own(pair: Pair) -> None:
    server, client, sync = pair.interfaces
    names = (("a", "b-to-c", "a-to-b", "c"), ("a", "to", "from", "to-a"))
    for one, two, three, four in names:
        interfaces: list[Interface] = [
            replace(client, name=one),
            replace(client, name=three),
            replace(server, name=two),
            replace(server, name=four),
            sync,
        ]
        text = text_of(compile_pair(replace(pair, interfaces=tuple(interfaces))).commands(RuleSet.PRIMARY))
        assert text.count('{"add": {"chain": {"family": "inet", "table": "hafw", "name": "from/') == 4


def test_the_digest_tells_policies_apart_and_roles_not(pair: Pair) -> None:
    compiled = compile_pair(pair)
    assert compile_pair(replace(pair, policy=())).digest != compiled.digest
    for rules in RuleSet:
        assert f"digest-{compiled.digest}" in text_of(compiled.commands(rules))
        assert f"digest-{compiled.digest}" in text_of(compiled.flip(rules))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rules", list(RuleSet))
def test_nft_gets_the_commands_and_nothing_else(case: str, rules: RuleSet) -> None:
    compiled = compile_pair(pair_of(case))
    commands = [json.loads(json.dumps(command_json(one))) for one in compiled.commands(rules)]
    assert json.loads(compiled.text(rules)) == {"nftables": commands}


def test_a_flip_is_as_small_for_a_large_policy(pair: Pair) -> None:
    service = Service("many", Protocol.TCP, (PortRange(1, 2),))
    large = replace(pair, policy=(replace(pair.policy[0], services=(service,) * 1000),))
    for rules in RuleSet:
        assert len(compile_pair(large).commands(rules)) > 1000
        assert len(text_of(compile_pair(large).flip(rules))) == len(text_of(compile_pair(pair).flip(rules)))


@pytest.mark.parametrize("rules", list(RuleSet))
def test_every_command_is_about_our_tables(pair: Pair, rules: RuleSet) -> None:
    for command in (*compile_pair(pair).commands(rules), *compile_pair(pair).flip(rules)):
        assert command.target.table in TABLES
        text = json.dumps(command_json(command))
        assert f'"family": "{FAMILY}"' in text
        assert "reject" not in text


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rules", list(RuleSet))
def test_what_nft_loads_is_read_back_as_the_same(case: str, rules: RuleSet) -> None:
    for one in compile_pair(pair_of(case)).objects(rules):
        ((kind, body),) = json.loads(json.dumps(object_json(one))).items()
        assert parse_object(kind, body) == one


@pytest.mark.parametrize("case", CASES)
def test_a_stop_gap_is_in_the_small_table_alone(case: str) -> None:
    for hole, commands in compile_pair(pair_of(case)).stop_gaps.items():
        targets = [one.target for one in commands if not isinstance(one.target, Table)]
        assert {one.table for one in targets} == {GATE_TABLE}
        assert any(isinstance(one, Rule) for one in targets), hole


def test_ports_are_merged() -> None:
    ranges = [
        PortRange(443, 443),
        PortRange(80, 90),
        PortRange(85, 100),
        PortRange(101, 101),
        PortRange(1, 1),
    ]
    assert ports(ranges) == OneOf((1, Range(80, 101), 443))
    assert ports([PortRange(22, 22)]) == 22


def test_networks_are_merged_and_everybody_is_no_match_of_addresses() -> None:
    inside = [ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    assert from_networks(inside, 4) == Match(Payload("ip", "saddr"), Prefix("10.0.0.0", 8))
    everybody = from_networks([ip_network("0.0.0.0/0")], 4)
    assert everybody == Match(Meta("nfproto"), "ipv4")
    assert from_networks(inside[:2], 6) is None


def test_what_is_next_to_each_other_is_one_element() -> None:
    networks = [ip_network(one) for one in ("10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.8/30", "fd00::/64")]
    assert elements(intervals(networks, 4), 4) == [
        Range("10.0.0.1", "10.0.0.3"),
        Prefix("10.0.0.8", 30),
    ]
    halves = [ip_network("fd00::/65"), ip_network("fd00::8000:0:0:0/65"), ip_network("fd00::7")]
    assert elements(intervals(halves, 6), 6) == [Prefix("fd00::", 64)]
    assert elements(intervals(networks[:1], 4), 4) == ["10.0.0.3"]
    assert from_networks([ip_network("0.0.0.0/1"), ip_network("128.0.0.0/1")], 4) == of_version(4)


def test_a_comment_cannot_leave_its_place() -> None:
    assert comment_text('a"; flush ruleset\n\\') == "a?; flush ruleset??"
    assert len(comment_text("x" * 500)) == 120


@pytest.mark.parametrize(
    ("limit", "least_s"),
    [
        ("2/minute burst 10", 300),
        ("1/day", 5 * 86_400),
        ("10/second burst 20", 2),
        ("7/hour burst 3", 3 * 3600 / 7),
    ],
)
def test_a_source_is_counted_until_its_burst_is_there_again(limit: str, least_s: float) -> None:
    rule = f"{{from: client, to: server, allow: [ssh], name: few, limit: {limit} per source}}"
    pair = parse(f"{SMALL}policy: [{rule}]\n")
    sets = [
        one for one in compile_pair(pair).body if isinstance(one, Set) and one.name.startswith("limit/few")
    ]
    assert len(sets) == 2
    for one in sets:
        assert one.timeout_s is not None
        assert least_s <= one.timeout_s <= least_s + 2
