# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever the pair: the rules compile, the kernel takes them, no text in it becomes a rule or a table."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.adapters.nftables import Nftables
from agent.core.roles import RuleSet
from agent.model.pair import (
    Interface,
    IPInterface,
    IPNetwork,
    Management,
    Node,
    Pair,
    PortRange,
    Protocol,
    Rule,
    Service,
    SourceNat,
    Sync,
)
from agent.rules.compile import compile_pair
from tests.netns.namespaces import Namespace, start_namespaces

pytestmark = pytest.mark.netns
NODES = ("fw-1", "fw-2")
NASTY = [
    '"',
    "'",
    "\n",
    "; flush ruleset",
    "@data",
    "*",
    "}\ntable inet evil {}",
    "\\",
    "\x00",
    "é",
    "x" * 200,
]

interface_names = st.from_regex(r"\A[A-Za-z0-9._-]{1,15}\Z")
texts = st.one_of(st.text(max_size=40), st.sampled_from(NASTY))
ports = st.integers(1, 65535)
ranges = st.tuples(ports, ports).map(lambda two: PortRange(min(two), max(two)))


@st.composite
def services(draw: st.DrawFn) -> Service:
    protocol = draw(st.sampled_from([Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP]))
    if protocol is Protocol.ICMP:
        return Service(draw(texts), protocol)
    helpers = {Protocol.TCP: "ftp", Protocol.UDP: "tftp"}
    helper = draw(st.sampled_from([None, helpers.get(protocol)]))
    return Service(draw(texts), protocol, tuple(draw(st.lists(ranges, max_size=4))), helper)


networks: st.SearchStrategy[IPNetwork] = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda two: IPv4Network(two, False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda two: IPv6Network(two, False)),
)


def _interface(name: str, zone: str, number: int, families: tuple[bool, bool]) -> Interface:
    def at(host: int) -> tuple[IPInterface, ...]:
        v4 = (IPv4Interface(f"10.{number}.0.{host}/24"),) if families[0] else ()
        v6 = (IPv6Interface(f"fd00:0:0:{number}::{host}/64"),) if families[1] else ()
        return (*v4, *v6)

    own = tuple((node, at(host)) for host, node in enumerate(NODES, 1))
    is_sync = zone == "sync"
    return Interface(name, zone, own, () if is_sync else at(100), None if is_sync else number + 1)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    zones = draw(st.lists(st.from_regex(r"\A[a-z][a-z0-9-]{0,10}\Z"), min_size=1, max_size=3, unique=True))
    zones = [f"z{zone}" for zone in zones]
    places = [zone for zone in zones for _ in range(draw(st.integers(1, 3)))]
    names = draw(st.lists(interface_names, min_size=len(places) + 1, max_size=len(places) + 1, unique=True))
    families = st.sampled_from([(True, False), (False, True), (True, True)])
    data = [
        _interface(name, zone, number, draw(families))
        for number, (name, zone) in enumerate(zip(names[1:], places, strict=True))
    ]
    sync = _interface(names[0], "sync", 99, draw(families))
    ways = st.tuples(st.sampled_from(zones), st.sampled_from(zones))
    return Pair(
        name="any",
        nodes=tuple(Node(name, priority) for name, priority in zip(NODES, (150, 140), strict=True)),
        interfaces=tuple(draw(st.permutations([*data, sync]))),
        management=Management(
            tuple(draw(st.lists(networks, min_size=1, max_size=5))),
            tuple(draw(st.lists(services(), min_size=1, max_size=3))),
        ),
        sync=Sync(port=draw(ports)),
        policy=tuple(
            Rule(one, other, tuple(draw(st.lists(services(), max_size=4))))
            for one, other in draw(st.lists(ways, max_size=4))
        ),
        nat=tuple(SourceNat(one, other) for one, other in draw(st.lists(ways, max_size=2))),
    )


@pytest.fixture(scope="module")
def node() -> Iterator[Namespace]:
    with start_namespaces("fw-1") as (started,):
        yield started


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pair=pairs(), role=st.sampled_from(RuleSet))
def test_any_pair_loads_and_says_nothing_else(node: Namespace, pair: Pair, role: RuleSet) -> None:
    with node.entered():
        rules = Nftables(compile_pair(pair))
    rules.check(role)
    rules.load(role)
    other = next(each for each in RuleSet if each is not role)
    rules.flip(other)
    assert rules.verify(other).drift is None
    rules.flip(role)
    entries = json.loads(node.run("nft", "-j", "list", "ruleset"))["nftables"]
    objects = compile_pair(pair).objects(role)
    for kind in ("rule", "chain", "set", "counter", "ct helper"):
        assert sum(kind in entry for entry in entries) == sum(one.kind == kind for one in objects)
    tables = [entry["table"] for entry in entries if "table" in entry]
    assert [(table["family"], table["name"]) for table in tables] == [
        ("inet", "hafw"),
        ("inet", "hafw-gate"),
    ]
    # what nft prints can be loaded as it is
    listing = node.run("nft", "list", "ruleset")
    node.run("nft", f"flush ruleset; {listing}")
    assert rules.read().rules is role
