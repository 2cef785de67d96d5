# SPDX-License-Identifier: GPL-2.0-or-later
"""Any policy that can be written: it is refused at a place, or it loads and does what it says.

What it says is worked out a second time by the model, packet by packet, and the packets are really sent.
"""

import json
import random
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import product

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agent.adapters.nftables import Nftables
from agent.config.loader import parse
from agent.core.roles import RuleSet
from agent.errors import ConfigError, Problem
from agent.model.pair import IPAddress, Pair
from agent.rules.compile import compile_pair
from agent.rules.objects import TABLES
from tests.netns.agent.rules.policy_model import Model
from tests.netns.agent.rules.simulated import simulate
from tests.netns.wire import VRRP, Packet, Wire, start_wire

pytestmark = pytest.mark.netns

HEAD = {
    "version": 1,
    "pair": "any",
    "nodes": {"fw-1": {"priority": 150}, "fw-2": {"priority": 140}},
    "interfaces": {
        "lan0": {
            "zone": "office",
            "vip": ["10.1.0.254/24", "10.1.0.80/24", "fd00:1::fe/64", "fd00:1::80/64"],
            "vrid": 11,
            "addresses": {"fw-1": ["10.1.0.1/24", "fd00:1::1/64"], "fw-2": ["10.1.0.2/24", "fd00:1::2/64"]},
        },
        "lan1": {
            "zone": "office",
            "vip": "10.2.0.254/24",
            "vrid": 12,
            "addresses": {"fw-1": "10.2.0.1/24", "fw-2": "10.2.0.2/24"},
        },
        "dmz0": {
            "zone": "dmz",
            "vip": ["10.3.0.254/24", "10.3.0.80/24", "fd00:3::fe/64", "fd00:3::80/64"],
            "vrid": 13,
            "addresses": {"fw-1": ["10.3.0.1/24", "fd00:3::1/64"], "fw-2": ["10.3.0.2/24", "fd00:3::2/64"]},
        },
        "sync0": {"zone": "sync", "addresses": {"fw-1": "10.255.0.1/30", "fw-2": "10.255.0.2/30"}},
    },
    "services": {"app": [{"tcp": [80, "8080-8090"]}, {"udp": 4000}], "both": ["app", "ping"]},
    "sets": {
        "some": ["10.1.0.10", "10.3.0.0/28", "fd00:1::/120"],
        "four": ["10.2.0.0/24", "10.1.0.10-10.1.0.30"],
        "all": ["0.0.0.0/0", "::/0"],
    },
}
ROUTES = {"192.0.2.0/24": "dmz0", "2001:db8::/64": "dmz0"}
WAYS = {ip_network(network): name for network, name in ROUTES.items()}
HOSTS = {
    "lan0": ("10.1.0.10", "10.1.0.40", "fd00:1::10", "fd00:1::1:7"),
    "lan1": ("10.2.0.10", "10.1.0.10"),
    "dmz0": ("10.3.0.10", "10.3.0.40", "fd00:3::10", "192.0.2.9"),
}
TARGETS = (
    *(
        "10.1.0.10",
        "10.1.0.254",
        "10.1.0.80",
        "10.1.0.1",
        "10.2.0.10",
        "10.3.0.2",
        "10.3.0.10",
        "10.3.0.40",
        "10.3.0.80",
        "192.0.2.7",
    ),
    *(
        "fd00:1::10",
        "fd00:1::fe",
        "fd00:1::80",
        "fd00:3::2",
        "fd00:3::10",
        "fd00:3::40",
        "fd00:3::fe",
        "fd00:3::80",
    ),
    "2001:db8::7",
)
# by the zone that they lead from: what is inside, and what it seems to be in the other zone
PREFIXES = {
    "office": (
        ("fd00:1::/64", "2001:db8::/64"),
        ("fd00:1::10/128", "fd00:3::80/128"),
        ("10.1.0.10/32", "10.3.0.80/32"),
        ("10.1.0.0/28", "192.0.2.0/28"),
    ),
    "dmz": (
        ("10.3.0.10/32", "10.1.0.80/32"),
        ("10.3.0.40/32", "192.0.2.7/32"),
        ("fd00:3::10/128", "fd00:1::80/128"),
        ("fd00:3::/64", "2001:db8::/64"),
    ),
}
TO_THE_SERVER = (
    ("10.3.0.10/32", "10.1.0.80/32"),
    ("10.3.0.0/28", "192.0.2.0/28"),
    ("fd00:3::10/128", "fd00:1::80/128"),
    ("fd00:3::/64", "2001:db8::/64"),
)
MAPPED = (*TARGETS, "192.0.2.10", "2001:db8::10")
SERVERS = ("10.3.0.10", "10.3.0.10", ["10.3.0.40", "fd00:3::10"], "10.1.0.10", "fd00:3::10", "fd00:1::10")
ASKED = ("192.0.2.7", "10.3.0.80", "10.1.0.80", "2001:db8::7", "fd00:1::80", "fd00:3::80", "10.1.0.1")
KINDS = (
    "tcp/22",
    "tcp/80",
    "tcp/8085",
    "udp/53",
    "udp/4000",
    "sctp/80",
    "icmp",
    "icmp/13",
    "proto/47",
    "proto/112",
)
NASTY = [
    'a"',
    "a; flush ruleset",
    "@some",
    "a*",
    "}\ntable inet evil {}",
    "a b",
    "x" * 16,
    "$(id)",
    "\x00",
    "é",
]

services = st.sampled_from(
    [
        *("ssh", "dns", "ping", "any", "app", "both", "gre", "ipsec", "http-alt"),
        *({"tcp": 80}, {"tcp": "1-79"}, {"udp": [53, "3000-5000"]}, {"tcp": 22, "udp": 4000}),
        *(
            {"sctp": 80},
            {"protocol": ["tcp", 47, 112]},
            {"icmp": "timestamp-request"},
            {"icmpv6": "echo-request"},
        ),
    ]
)
addresses = st.sampled_from(
    [
        *(
            "some",
            "four",
            "all",
            "10.1.0.10",
            "10.3.0.0/24",
            "10.1.0.0-10.1.0.20",
            "fd00:1::10",
            "fd00:3::/64",
        ),
        *("0.0.0.0/0", "::/0", "10.3.0.10", "192.0.2.0/24"),
    ]
)
ends = st.lists(addresses, min_size=1, max_size=3)
zones = st.sampled_from(["office", "dmz", "office", "dmz", "dmz", "sync", "nowhere"])
nasty = st.sampled_from(NASTY)


@st.composite
def rules(draw: st.DrawFn, number: int) -> dict[str, object]:
    to = draw(st.sampled_from(["office", "dmz", "dmz", "self", ["dmz", "self"]]))
    action = draw(st.sampled_from(["allow", "allow", "reject", "drop"]))
    rule: dict[str, object] = {
        "from": draw(zones if number == 3 else st.sampled_from(["office", "dmz"])),
        "to": to,
    }
    rule[action] = draw(st.lists(services, min_size=1, max_size=3))
    for key in ("source", "destination"):
        if draw(st.integers(0, 2)) == 0:
            rule[key] = draw(ends)
    if draw(st.integers(0, 4)) == 0:
        # never reached, but another way through the rules
        rule |= {"name": f"r{number}", "log": True}
        if action == "allow":
            rule |= {"limit": "100000/second burst 1000", "connections": "60000 per source"}
    if draw(st.integers(0, 40)) == 0:
        rule["name"] = draw(nasty)
    return rule


@st.composite
def nats(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(["source", "source", "forward", "forward", "prefix"]))
    way: dict[str, object] = {"from": draw(st.sampled_from(["office", "office", "dmz"])), "to": "dmz"}
    if way["from"] == "dmz":
        way["to"] = "office"
    if kind == "prefix":
        inside, outside = draw(st.sampled_from(PREFIXES[str(way["from"])]))
        return way | {"prefix": {"inside": inside, "outside": outside}}
    if kind == "forward":
        return way | draw(forwards(SERVERS))
    way["source"] = draw(
        st.sampled_from(
            ["vip", "vip", "keep", "192.0.2.1", ["192.0.2.2", "2001:db8::2"], "10.3.0.80", *NASTY[:2]]
        )
    )
    match = draw(st.sampled_from([None, "source", "destination", "services"]))
    if match:
        way["match"] = {
            match: draw(ends if match != "services" else st.lists(services, min_size=1, max_size=2))
        }
    return way


@st.composite
def forwards(draw: st.DrawFn, servers: Sequence[object]) -> dict[str, object]:
    way: dict[str, object] = {"destination": draw(st.sampled_from(servers))}
    if draw(st.integers(0, 3)):
        way["services"] = draw(st.lists(services, min_size=1, max_size=2))
    if draw(st.integers(0, 2)) == 0:
        way["services"] = [draw(st.sampled_from([{"tcp": 80}, {"tcp": 8085}, {"udp": 4000}, "ssh"]))]
        way["port"] = draw(st.sampled_from([22, 80, 8085]))
    if draw(st.booleans()):
        way["address"] = draw(st.sampled_from(ASKED))
    if draw(st.integers(0, 2)) == 0:
        way["hairpin"] = True
    if draw(st.integers(0, 2)) == 0:
        way["match"] = {"source": draw(ends)}
    return way


@st.composite
def ways_to_a_server(draw: st.DrawFn) -> list[dict[str, object]]:
    """Entries that lead to one server in several ways, so that none may lean on what another one allows."""
    entries: list[dict[str, object]] = []
    for _ in range(draw(st.integers(2, 5))):
        if draw(st.integers(0, 3)) == 0:
            inside, outside = draw(st.sampled_from(TO_THE_SERVER))
            entries.append({"from": "dmz", "to": "office", "prefix": {"inside": inside, "outside": outside}})
        else:
            entries.append({"from": "office", "to": "dmz", **draw(forwards([["10.3.0.10", "fd00:3::10"]]))})
    return entries


def alone(section: str, entry: object) -> str:
    text: str = yaml.safe_dump({**HEAD, section: [entry]})
    return text


@st.composite
def files(draw: st.DrawFn) -> str:
    file = json.loads(json.dumps(HEAD))
    crowded = draw(st.booleans())
    wanted = {
        "policy": [draw(rules(number)) for number in range(draw(st.integers(0, 1 if crowded else 5)))],
        "nat": draw(ways_to_a_server() if crowded else st.lists(nats(), max_size=5)),
    }
    # most of what cannot be is taken out again, or hardly any file would be accepted
    keeps_bad = draw(st.integers(0, 5)) == 0
    if not crowded and draw(st.booleans()):
        # what gets through shows the NAT
        wanted["policy"].append({"from": ["office", "dmz"], "to": ["office"], "allow": ["any"]})
        wanted["policy"].append({"from": "office", "to": "dmz", "allow": ["any"]})
    for section, entries in wanted.items():
        file[section] = [one for one in entries if keeps_bad or not parsed(alone(section, one))[1]]
    file["zones"] = {
        "office": {"side": draw(st.sampled_from(["inside", "outside"]))},
        "dmz": {"log": draw(st.booleans())},
    }
    if draw(st.booleans()):
        reason = st.sampled_from(['two "uplinks"; drop', "a } b { c", "it is * @all", "why not \\"])
        file["interfaces"]["lan1"]["no_source_check"] = draw(reason)
    text: str = yaml.safe_dump(file)
    return text


def packets(seed: int, pair: Pair) -> Iterator[Packet]:
    """Not drawn one by one: a packet is no part of a smaller counterexample, a policy is. Half of them go to
    where something is translated."""
    chosen, seen = random.Random(seed), set()
    aims = sorted({str(one) for one in _translated(pair)})
    for number in range(40):
        interface = chosen.choice(sorted(HOSTS))
        source = ip_address(chosen.choice(HOSTS[interface]))
        places = aims if number % 2 else TARGETS
        fitting = [one for one in places if ip_address(one).version == source.version and one != str(source)]
        if not fitting:
            continue
        packet = Packet(interface, source, ip_address(chosen.choice(fitting)), chosen.choice(KINDS))
        # two of a whole protocol cannot be told apart, and ICMPv6 has no timestamps
        if not (
            (packet.what in seen and packet.what.startswith("proto/"))
            or (source.version == 6 and packet.what == "icmp/13")
        ):
            seen.add(packet.what)
            yield packet


def _translated(pair: Pair) -> Iterator[IPAddress]:
    """Where a translation may begin, as far as packets are sent there."""
    for one in pair.forwards:
        vips = (vip.ip for interface in pair.in_zone(one.from_zone) for vip in interface.vips)
        yield from one.addresses or vips
    for outside in (nat.prefixes[1] for nat in pair.nat if nat.prefixes):
        yield from (target for one in MAPPED if (target := ip_address(one)) in outside)


def _seen(packet: Packet, fate: str) -> set[str]:
    """The checksum of an advertisement over IPv6 is also about the addresses; the kernel translates these,
    knows of no such checksum, and then answers nothing whose checksum is wrong."""
    is_summed = packet.source.version == 6 and packet.protocol == VRRP
    return {fate, "drop"} if is_summed and fate == "reject" else {fate}


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with start_wire(parse(yaml.safe_dump(HEAD)), "fw-1") as started:
        for network, interface in ROUTES.items():
            started.route(network, interface)
        yield started


def parsed(text: str) -> tuple[Pair | None, tuple[Problem, ...]]:
    try:
        return parse(text), ()
    except ConfigError as error:
        return None, error.problems


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=files())
def test_a_table_says_what_the_policy_says(text: str) -> None:
    """Without a kernel, so that every packet there is can be asked about."""
    pair, _ = parsed(text)
    if pair is None:
        return
    model, table = Model(pair, "fw-1", WAYS), simulate(pair, "fw-1", WAYS)
    targets = sorted({*TARGETS, *(str(one) for one in _translated(pair))})
    for interface, source, target, kind in product(
        sorted(HOSTS), HOSTS["lan0"] + HOSTS["dmz0"], targets, KINDS
    ):
        packet = Packet(interface, ip_address(source), ip_address(target), kind)
        fits = packet.source.version == packet.target.version and source != target
        if fits and model.lives_there(packet) and not (packet.source.version == 6 and kind == "icmp/13"):
            assert table.fate(packet) == model.fate(packet), str(packet)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=files(), seed=st.integers(0, 1 << 32))
def test_a_policy_does_what_it_says(wire: Wire, text: str, seed: int) -> None:
    pair, problems = parsed(text)
    if pair is None:
        event("refused")
        assert all(one.path.startswith(("policy[", "nat[")) and one.message for one in problems)
        return
    event("accepted")
    with wire.node.entered():
        wire.pair, wire.rules = pair, Nftables(compile_pair(pair))
    model, table = Model(pair, "fw-1", WAYS), simulate(pair, "fw-1", WAYS)
    for role, fate in ((RuleSet.BACKUP, model.fate_on_backup), (RuleSet.PRIMARY, model.fate)):
        wire.be(role)
        assert wire.drift() is None
        for packet in packets(seed, pair):
            assert wire.send(packet) in _seen(packet, fate(packet)), f"{role.value}: {packet}"
            if role is RuleSet.PRIMARY and model.lives_there(packet):
                assert table.fate(packet) == fate(packet), str(packet)
    entries = json.loads(wire.node.run("nft", "-j", "list", "ruleset"))["nftables"]
    assert [entry["table"]["name"] for entry in entries if "table" in entry] == [*TABLES]
    objects = compile_pair(pair).objects(RuleSet.PRIMARY)
    for kind in ("rule", "chain", "set"):
        assert sum(kind in entry for entry in entries) == sum(one.kind == kind for one in objects)
    # what nft prints can be loaded as it is
    listing = wire.node.run("nft", "list", "ruleset")
    wire.node.run("nft", f"flush ruleset; {listing}")
