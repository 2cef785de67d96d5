# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy in a pair file: rules, services, sets, limits, NAT, included files; and what cannot be."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from agent.config.loader import load, load_with_files, parse
from agent.errors import ConfigError, Problem
from agent.model.pair import (
    Action,
    Addresses,
    AddressSet,
    Connections,
    Pair,
    PortRange,
    Protocol,
    Rate,
    Service,
    Side,
    Translation,
    Zone,
)
from tests.checkout import EXAMPLES

HEAD = """\
version: 1
pair: G1
nodes: {fw-1: {priority: 150}, fw-2: {priority: 140}}
interfaces:
  eth0: {zone: server, vip: [192.168.0.100/24, "fd00:a::100/64"], vrid: 62,
         addresses: {fw-1: [192.168.0.1/24, "fd00:a::1/64"], fw-2: [192.168.0.2/24, "fd00:a::2/64"]}}
  eth1: {zone: client, vip: [192.168.2.100/24, "fd00:c::100/64"], vrid: 61,
         addresses: {fw-1: [192.168.2.1/24, "fd00:c::1/64"], fw-2: [192.168.2.2/24, "fd00:c::2/64"]}}
  eth3: {zone: client, vip: 192.168.3.100/24, vrid: 63,
         addresses: {fw-1: 192.168.3.1/24, fw-2: 192.168.3.2/24}}
  eth2: {zone: sync, addresses: {fw-1: 192.168.1.1/24, fw-2: 192.168.1.2/24}}
"""


def pair_of(text: str) -> Pair:
    return parse(HEAD + text)


def problems_of(text: str, texts: dict[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(HEAD + text, texts=texts)
    return caught.value.problems


def test_a_rule_is_as_it_was_written() -> None:
    (rule,) = pair_of(
        "policy: [{name: web, from: client, to: server, reject: [http, {udp: 443}], log: true,"
        " source: [192.168.2.0/25, admins], destination: 192.168.0.10-192.168.0.11}]\n"
        "sets: {admins: 'fd00:c::7'}\n"
    ).policy
    assert (rule.from_zone, rule.to_zone, rule.label) == ("client", "server", "web")
    assert [one.name for one in rule.services] == ["http", "udp 443"]
    assert (rule.action, rule.log) == (Action.REJECT, True)
    assert rule.source == Addresses((ip_network("192.168.2.0/25"),), ("admins",))
    assert rule.destination == Addresses((ip_network("192.168.0.10/31"),))


def test_several_zones_are_several_rules() -> None:
    rules = pair_of("policy: [{from: [client, server], to: [client, self], allow: [ssh]}]\n").policy
    ways = [(rule.from_zone, rule.to_zone) for rule in rules]
    assert ways == [("client", "client"), ("client", "self"), ("server", "client"), ("server", "self")]


@pytest.mark.parametrize(
    ("text", "rate", "connections"),
    [
        ("limit: 10/second", Rate(10, "second", 5), None),
        ("limit: 100/minute burst 20", Rate(100, "minute", 20), None),
        ("limit: 5/hour burst 7 per source", Rate(5, "hour", 7, True), None),
        ("connections: 20", None, Connections(20)),
        ("limit: 1/day, connections: 3 per source", Rate(1, "day", 5), Connections(3, True)),
    ],
)
def test_limits(text: str, rate: Rate | None, connections: Connections | None) -> None:
    (rule,) = pair_of(f"policy: [{{name: a, from: client, to: server, allow: [ssh], {text}}}]\n").policy
    assert (rule.rate, rule.connections) == (rate, connections)


def test_services_of_ones_own() -> None:
    pair = pair_of(
        "services: {app: [{tcp: [1, 5-9]}, {udp: 2}, ssh], all: [app, {protocol: [gre, 94]}],"
        " clock: {icmp: timestamp-request}, ftp-alt: {tcp: 2121, helper: ftp}}\n"
        "policy: [{from: client, to: server, allow: [all, clock, ftp-alt, any]}]\n"
    )
    app = Service("app", Protocol.TCP, (PortRange(1, 1), PortRange(5, 9)))
    assert pair.policy[0].services == (
        app,
        Service("app", Protocol.UDP, (PortRange(2, 2),)),
        Service("ssh", Protocol.TCP, (PortRange(22, 22),)),
        Service("all", Protocol.NUMBER, numbers=(47, 94)),
        Service("clock", Protocol.ICMPV4, numbers=(13,)),
        Service("ftp-alt", Protocol.TCP, (PortRange(2121, 2121),), "ftp"),
        Service("any", Protocol.ANY),
    )
    assert pair.helpers == ("ftp",)


def test_sets_zones_and_the_reason_of_an_interface() -> None:
    text = HEAD.replace("vrid: 63,", "vrid: 63, no_source_check: two uplinks,")
    pair = parse(
        text + "sets: {a: [10.0.0.0/8, 'fd00::/8'], b: {dynamic: true, timeout: 60s}, c: {dynamic: true}}\n"
        "zones: {client: {side: inside}, server: {log: true}}\n"
    )
    assert pair.sets == (
        AddressSet("a", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        AddressSet("b", (), True, 60),
        AddressSet("c", (), True),
    )
    assert pair.zones == (Zone("client", Side.INSIDE), Zone("server", Side.OUTSIDE, True))
    assert pair.zone("other").side is Side.OUTSIDE
    reasons = [interface.no_source_check for interface in pair.interfaces]
    assert reasons == [None, None, "two uplinks", None]


def test_nat() -> None:
    pair = pair_of(
        "nat:\n"
        "  - {from: client, to: server, source: keep, match: {destination: 192.168.0.7}}\n"
        "  - {from: client, to: server, source: [192.168.0.100, 'fd00:b::1'], match: {services: [ssh]}}\n"
        "  - {from: client, to: server, source: 10.9.0.0/30, match: {source: 192.168.2.0/24}}\n"
        "  - {from: client, to: server, source: vip}\n"
        "  - {from: client, to: server, services: [https], port: 8443,"
        " destination: [192.168.0.10, 'fd00:a::10']}\n"
        "  - {from: [client], to: server, destination: 192.168.0.11, address: 192.0.2.1, hairpin: true}\n"
        "  - {from: server, to: client, prefix: {inside: 'fd00:a::/64', outside: '2001:db8::/64'}}\n"
    )
    kinds = [one.translation for one in pair.nat]
    assert kinds == [
        Translation.KEEP,
        Translation.ADDRESS,
        Translation.ADDRESS,
        Translation.VIP,
        Translation.PREFIX,
    ]
    assert [str(one) for one in pair.nat[1].addresses] == ["192.168.0.100", "fd00:b::1"]
    assert [str(one) for one in pair.nat[2].addresses] == ["10.9.0.0-10.9.0.3"]
    first, second = pair.forwards
    assert (first.targets, first.port) == ((ip_address("192.168.0.10"), ip_address("fd00:a::10")), 8443)
    assert (second.addresses, second.services, second.hairpin) == ((ip_address("192.0.2.1"),), (), True)


def rule(text: str) -> str:
    return f"policy: [{{from: client, to: server, {text}}}]"


def nat(text: str) -> str:
    return f"nat: [{{from: client, to: server, {text}}}]"


BAD: list[tuple[str, str, str]] = [
    (rule("source: 10.0.0.1"), "policy[0]", "allow is missing; write what may pass"),
    (rule("allow: [ssh], drop: [http]"), "policy[0]", "allow and drop are in one rule"),
    (rule("allow: [ssh], name: Web"), "policy[0].name", "is not a name"),
    (rule("allow: [ssh], name: 'a\"; flush'"), "policy[0].name", "is not a name"),
    (rule("allow: [ssh], limit: 1/second"), "policy[0]", "limit needs a name"),
    (rule("allow: [ssh], log: true"), "policy[0]", "log needs a name"),
    (rule("name: a, allow: [ssh], limit: 1/week"), "policy[0].limit", "is not a rate"),
    (rule("name: a, allow: [ssh], limit: 0/second"), "policy[0].limit", "is not a rate"),
    (
        rule("name: a, allow: [ssh], connections: many"),
        "policy[0].connections",
        "not a number of connections",
    ),
    (rule("name: a, drop: [ssh], limit: 1/second"), "policy[0].limit", "this is drop"),
    (rule("allow: [ssh], source: admins"), "policy[0].source", "no set is named 'admins'"),
    (rule("allow: [ssh], source: 10.0.0.1/8"), "policy[0].source", "write 10.0.0.0/8 or 10.0.0.1"),
    (rule("allow: [ssh], source: 10.0.0.9-10.0.0.1"), "policy[0].source", "the lower address first"),
    (rule("allow: [ssh], source: '10.0.0.9-fd00::1'"), "policy[0].source", "of one IP version"),
    (rule("allow: [ssh], source: 10.0.0.1-10.0.0.300"), "policy[0].source", "is not a range"),
    (rule("allow: [ssh], source: []"), "policy[0].source", "empty list"),
    (rule("allow: [ssh], source: 10.0.0.1, destination: 'fd00::1'"), "policy[0]", "share no IP version"),
    (
        rule("allow: [{icmpv6: echo-request}], source: 10.0.0.1"),
        "policy[0]",
        "does not go over the IP version",
    ),
    (rule("allow: [{icmp: redirect}]"), "policy[0].allow[0].icmp", "not a request of icmp"),
    (rule("allow: [{protocol: 256}]"), "policy[0].allow[0].protocol", "not an IP protocol"),
    (rule("allow: [{tcp: 1, helper: ftpp}]"), "policy[0].allow[0].helper", "did you mean ftp?"),
    (rule("allow: [{udp: 1, helper: ftp}]"), "policy[0].allow[0].helper", "reads tcp, not udp"),
    (rule("allow: [{helper: ftp}]"), "policy[0].allow[0]", "names no service"),
    (
        "policy: [{from: self, to: server, allow: [ssh]}]",
        "policy[0].from",
        "what the firewalls send is free",
    ),
    ("policy: [{from: server, to: server, allow: [ssh]}]", "policy[0]", "itself, which is one network"),
    ("policy: [{from: [client, client], to: server, allow: [ssh]}]", "policy[0].from[1]", "twice"),
    (
        "policy: [{from: client, to: server, allow: [ssh], name: a, limit: 1/day burst 400}]",
        "policy[0].limit",
        "more than a year",
    ),
    (
        "policy: [{from: client, to: server, allow: [ssh], name: a, limit: 1/day, ipv6_prefix: 56}]",
        "policy[0].ipv6_prefix",
        "is for limits per source",
    ),
    ("services: {ssh: {tcp: 2222}}", "services.ssh", "built-in"),
    ("services: {'a b': {tcp: 2222}}", "services.a b", "is not a name"),
    ("services: {a: []}", "services.a", "names no service"),
    ("services: {a: [b], b: {tcp: 1}}", "services.a[0]", "no service is named 'b'"),
    ("sets: {a: {}}", "sets.a", "has no addresses"),
    ("sets: {a: []}", "sets.a", "empty list"),
    ("sets: {A: 10.0.0.1}", "sets.A", "is not a name"),
    ("sets: {a: {timeout: 5s}}", "sets.a", "for dynamic sets"),
    ("sets: {a: {file: ../x}}", "sets.a.file", "below it"),
    ("sets: {a: {file: x.txt}}", "sets.a.file", "only together with a pair file on disk"),
    ("zones: {clint: {side: inside}}", "zones.clint", "did you mean client?"),
    ("zones: {sync: {side: inside}}", "zones.sync", "no interface is in a zone"),
    ("zones: {client: {side: within}}", "zones.client.side", "inside"),
    ("include: [/etc/passwd]", "include[0]", "below it"),
    ("include: [a/../../b]", "include[0]", "below it"),
    ("include: ['a\\nb']", "include[0]", "below it"),
    ("include: b.yaml", "include", "only together with a pair file on disk"),
    (nat("source: [masquerade]"), "nat[0].source[0]", "dies with the node"),
    (nat("source: 192.168.0.1"), "nat[0].source", "node's own address on eth0"),
    (nat("source: 192.168.0.50"), "nat[0].source", "add it to the vip of eth0"),
    (nat("source: 192.168.0.100-192.168.0.101"), "nat[0].source", "add it to the vip of eth0"),
    (nat("source: 10.0.0.0/8"), "nat[0].source", "very large pool"),
    (nat("source: 224.0.0.1"), "nat[0].source", "not an address that a connection can come from"),
    (nat("source: [10.0.0.1, 10.0.0.2]"), "nat[0].source[1]", "a second one of IPv4"),
    (nat("source: vip, destination: 192.168.0.9"), "nat[0]", "make two entries"),
    (nat("source: vip, match: {}"), "nat[0].match", "is empty"),
    (nat("source: vip, match: {source: 10.0.0.1, destination: '::1'}"), "nat[0].match", "no IP version"),
    ("nat: [{from: client, to: self, source: vip}]", "nat[0].to", "what the firewalls send is free"),
    (
        "nat: [{from: client, to: server, source: vip}, {from: client, to: server, source: keep}]",
        "nat[1]",
        "client to server is already in nat[0], which takes everything",
    ),
    (nat("prefix: {inside: 'fd00::/64', outside: '2001:db8::/48'}"), "nat[0].prefix", "differ in length"),
    (nat("prefix: {inside: 'fd00::/64', outside: 'fd00::/64'}"), "nat[0].prefix", "overlap"),
    (nat("prefix: {inside: 'fd00::/64', outside: 'fd00:a::/64'}"), "nat[0].prefix.outside", "own address"),
    (nat("destination: 192.168.0.10"), "nat[0]", "services is missing"),
    (nat("services: [any], destination: 192.168.0.10"), "nat[0]", "VRRP may be among them"),
    (nat("services: [icmp], destination: 192.168.0.10, port: 8"), "nat[0].port", "with ports only"),
    (nat("address: 10.9.9.9, destination: 192.168.0.10, port: 8"), "nat[0].port", "needs services"),
    (
        nat("services: [{tcp: 8000-8010}], destination: 192.168.0.10, port: 80"),
        "nat[0].port",
        "tcp 8000-8010 asks for more",
    ),
    (
        nat("services: [http, https], destination: 192.168.0.10, port: 80"),
        "nat[0].port",
        "https asks for more",
    ),
    (
        nat("address: 192.168.3.100, destination: 192.168.0.10"),
        "nat[0]",
        "the only IPv4 vip that eth3 has left",
    ),
    (
        nat("address: 192.168.3.100, destination: 192.168.0.10, match: {source: 0.0.0.0/0}"),
        "nat[0]",
        "the only IPv4 vip that eth3 has left",
    ),
    (
        nat(
            "address: 192.168.3.100, destination: 192.168.0.10, match: {source: ['::/0', half, 128.0.0.0/1]}"
        )
        + "\nsets: {half: 0.0.0.0/1}",
        "nat[0]",
        "the only IPv4 vip that eth3 has left",
    ),
    (
        nat(
            "address: 192.168.3.100, destination: 192.168.0.10, match: {source: 0.0.0.0/1}}, {from: client,"
            " to: server, address: 192.168.3.100, destination: 192.168.0.11, match: {source: 128.0.0.0/1}"
        ),
        "nat[1]",
        "takes 192.168.3.100 whole, the only IPv4 vip that eth3 has left",
    ),
    (
        nat("services: [any], address: 'fd00:c::100', destination: 'fd00:a::9'"),
        "nat[0]",
        "the only IPv6 vip that eth1 has left",
    ),
    (
        "nat: [{from: server, to: client, prefix: {inside: 192.168.0.3/32, outside: 192.168.2.100/32}}]",
        "nat[0]",
        "takes 192.168.2.100 whole",
    ),
    (nat("services: [ssh], destination: 192.168.0.0/24"), "nat[0].destination", "more than one address"),
    (nat("services: [ssh], destination: 127.0.0.1"), "nat[0].destination", "that a host can have"),
    (
        nat("services: [ssh], destination: [10.0.0.1, 10.0.0.2]"),
        "nat[0].destination[1]",
        "second server of IPv4",
    ),
    (
        nat("services: [ssh], address: 192.168.2.1, destination: 192.168.0.9"),
        "nat[0].address",
        "node's own address",
    ),
    (
        nat("services: [ssh], address: 192.168.2.9, destination: 192.168.0.9"),
        "nat[0].address",
        "no node answers",
    ),
    (nat("services: [ssh], address: 'fd00::9', destination: 192.168.0.9"), "nat[0]", "share no IP version"),
]


@pytest.mark.parametrize(
    "text",
    [
        nat("services: [{tcp: 8080, udp: 8080}], destination: 192.168.0.10, port: 80"),
        # from one source alone, or an address that is not the only one
        nat("address: 192.168.3.100, destination: 192.168.0.10, match: {source: 203.0.113.9}"),
        nat("address: 203.0.113.9, destination: 192.168.0.10"),
    ],
)
def test_a_forward_that_leaves_enough(text: str) -> None:
    assert len(parse(HEAD + text + "\n").forwards) == 1


CHANNEL = "the port at which the agents listen for each other, and for nobody else"


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("management: {from: client, services: [ssh, {tcp: 3781}]}", "management.services", "tcp/3781"),
        ("policy: [{from: client, to: self, allow: [{tcp: 3781}]}]", "policy[0]", "tcp/3781"),
        (
            "sync: {channel_port: 5061}\npolicy: [{from: [client, server], to: self, allow: [ssh, sips]}]",
            "policy[0]",
            "tcp/5061",
        ),
        (
            "sync: {channel_port: 8080}\nmanagement: {from: client, services: [ssh, http-alt]}\n"
            "policy: [{from: client, to: self, allow: [http-alt]}]",
            "management.services",
            "tcp/8080",
        ),
    ],
)
def test_where_the_agents_listen_nobody_else_is_let_in(text: str, path: str, message: str) -> None:
    (found,) = problems_of(text + "\n")
    assert found.path == path
    assert found.message.startswith(f"{message} is {CHANNEL}; write another sync.channel_port")


def test_where_a_tunnel_listens_nobody_else_is_let_in() -> None:
    rule = "policy: [{from: client, to: self, allow: [{udp: 51820}]}]\n"
    assert pair_of(rule).policy
    (found,) = problems_of(f"sync: {{encrypt: wireguard}}\n{rule}")
    assert found.path == "policy[0]"
    words = "udp/51820 is the port of the tunnel over eth2; write another sync.wireguard_port"
    assert found.message.startswith(words)
    assert pair_of(f"sync: {{encrypt: wireguard, wireguard_port: 51000}}\n{rule}").policy


@pytest.mark.parametrize(
    "text",
    [
        "policy: [{from: client, to: server, allow: [{tcp: 3781}]}]",
        "policy: [{from: client, to: self, allow: [{udp: 3781}]}]",
        "policy: [{from: client, to: self, allow: [{tcp: 1024-65535}, any]}]",
        "policy: [{from: client, to: self, drop: [{tcp: 3781}]}]",
        "sync: {channel_port: 3782}\npolicy: [{from: client, to: self, allow: [{tcp: 3781}]}]",
    ],
)
def test_other_uses_of_that_port_are_none_of_theirs(text: str) -> None:
    assert len(pair_of(text + "\n").policy) == 1


@pytest.mark.parametrize(("text", "path", "message"), BAD)
def test_bad(text: str, path: str, message: str) -> None:
    found = problems_of(text + "\n")
    assert [problem.path for problem in found] == [path], found
    assert message in found[0].message
    assert "(line " in found[0].message


def test_a_zone_or_interface_cannot_take_a_word_of_the_language() -> None:
    for old, new, path in (
        ("zone: server", "zone: self", "interfaces.eth0.zone"),
        ("fw-2: 192.168.1.2/24}", "fw-2: 192.168.1.2/24}, no_source_check: why not", "no_source_check"),
        ("vrid: 62,", "vrid: 62, no_source_check: 0,", "interfaces.eth0.no_source_check"),
        ("vrid: 62,", "vrid: 62, no_source_check: 'aé b',", "interfaces.eth0.no_source_check"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(HEAD.replace(old, new))
        assert any(path in problem.path for problem in caught.value.problems)


def test_names_are_given_once() -> None:
    one = "{name: a, from: client, to: server, allow: [ssh]}"
    (problem,) = problems_of(f"policy: [{one}, {one}]\n")
    assert problem.path == "policy[1].name"
    assert "another rule" in problem.message


def test_every_file_tells_its_problems_with_its_name() -> None:
    found = problems_of(
        "include: [b.yaml, c.yaml, d.yaml, b.yaml]\nsets: {x: {file: x.txt}}\nzones: {nowhere: {}}\n",
        {
            "b.yaml": "policy:\n  - {from: client, to: servr, allow: [ssh]}\nnodes: {}\n",
            "c.yaml": "policy: [",
            "d.yaml": "services: {site: [htpp]}\n",
            "x.txt": "10.0.0.1\n10.0.0.x # no\n",
        },
    )
    assert [(problem.path, problem.message[:20]) for problem in found] == [
        ("include[3]", "b.yaml is already in"),
        ("sets.x.file", "x.txt: '10.0.0.x' is"),
        ("zones.nowhere", "no interface is in a"),
        ("b.yaml:policy[0].to", "no interface is in a"),
        ("b.yaml:nodes", "unknown key; did you"),
        ("c.yaml", "is not valid YAML: d"),
        ("d.yaml:services.site[0]", "no service is named "),
    ]
    assert "(line 2)" in found[3].message


def test_included_rules_come_behind_and_share_the_words() -> None:
    pair = parse(
        HEAD + "include: b.yaml\npolicy: [{from: client, to: server, allow: [site], source: x}]\n",
        texts={
            "b.yaml": "services: {site: [http]}\nsets: {x: 10.0.0.1}\n"
            "policy: [{from: server, to: client, allow: [site]}]\n"
        },
    )
    assert [rule.from_zone for rule in pair.policy] == ["client", "server"]


def test_files_on_disk(tmp_path: Path) -> None:
    main = tmp_path / "hafw.yaml"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.yaml").write_text("sets: {y: {file: d/y.txt}}\n")
    (tmp_path / "d" / "y.txt").write_text("10.0.0.0/24 10.0.1.7 # two\n")
    main.write_text(HEAD + "include: [d/b.yaml]\n")
    pair, files = load_with_files(main)
    assert pair.sets[0].networks == (ip_network("10.0.0.0/24"), ip_network("10.0.1.7/32"))
    assert [name for name, _ in files] == ["hafw.yaml", "d/b.yaml", "d/y.txt"]
    (tmp_path / "d" / "c.yaml").symlink_to("/etc/hostname")
    (tmp_path / "d" / "e.yaml").symlink_to("e.yaml")
    (tmp_path / "d" / "f.yaml").write_bytes(b"\xff")
    main.write_text(HEAD + "include: [d/c.yaml, d/e.yaml, d/f.yaml, d/g.yaml, d]\n")
    with pytest.raises(ConfigError) as caught:
        load(main)
    texts = [problem.message for problem in caught.value.problems]
    words = ("leads out", "cannot be read", "not UTF-8", "No such file", "directory")
    assert len(texts) == len(words)
    assert all(word in text for word, text in zip(words, texts, strict=True)), texts


def test_the_example_says_everything() -> None:
    pair = load(EXAMPLES / "policy.yaml")
    assert {rule.action for rule in pair.policy} == set(Action)
    assert {one.translation for one in pair.nat} == set(Translation)
    assert pair.forwards
    assert {one.dynamic for one in pair.sets} == {True, False}
