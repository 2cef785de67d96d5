# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused in a pair file, where the problem is said to be, and in which words."""

import pytest

from agent.config.loader import parse
from tests.unit.agent.small_pair import SMALL, changed, problems_of


def test_everything_is_said_at_once_in_the_order_of_the_file() -> None:
    text = (
        changed("version: 1", "version: 2")
        .replace("vrid: 62", "vrid: 0")
        .replace("vip: 192.168.2.100/24", "vip: 192.168.3.100/24")
        + "gait: {limit: 1s}\ngate: {limit: soon, then: shut}\n"
    )
    assert [problem.path for problem in problems_of(text)] == [
        "version",
        "interfaces.eth0.vrid",
        "interfaces.eth1.vip",
        "gait",
        "gate.limit",
        "gate.then",
    ]


def test_a_problem_tells_its_line() -> None:
    (problem,) = problems_of(changed("vrid: 61", "vrid: 300"))
    assert str(problem) == "interfaces.eth1.vrid: 300 is out of range; write 1 to 255 (line 7)"


SCOPED = "names an interface behind %; write the address alone"
BAD: list[tuple[str, str, str, str]] = [
    # what is replaced, by what, the path, a part of the message
    ("version: 1", "version: 1.0", "version", "not a whole number"),
    ("version: 1", "version: true", "version", "not a whole number"),
    ("version: 1", 'version: "1"', "version", "without them"),
    ("version: 1\n", "", "", "version is missing"),
    ("fw-1: 192.168.1.1/24", "fw-1: 'fd00::1%eth2/64'", "interfaces.eth2.addresses.fw-1", SCOPED),
    ("vip: 192.168.0.100/24", "vip: 'fe80::1%eth0/64'", "interfaces.eth0.vip", SCOPED),
    ("pair: G1", "pair: G1\nsets: {a: ['2001:db8::1%eth0']}", "sets.a[0]", SCOPED),
    ("pair: G1", "pair: G1\nsets: {a: '2001:db8::1%eth0-2001:db8::5%eth0'}", "sets.a", SCOPED),
    ("pair: G1", "pair: G1\nmanagement: {from: 'fd00::%eth0/64', allow: [ssh]}", "management.from", SCOPED),
    ("pair: G1", "pair: 'a b'", "pair", "not a name for a pair"),
    ("pair: G1", f"pair: {'x' * 33}", "pair", "not a name for a pair"),
    ("pair: G1", "pair:", "pair", "has no value"),
    ("pair: G1", "pair: [a]", "pair", "single value"),
    ("pair: G1", "pare: G1", "pare", "did you mean pair?"),
    (", fw-2: {priority: 140}}", "}", "nodes", "exactly two nodes, not 1"),
    ("140}}", "140}, fw-3: {priority: 1}}", "nodes", "exactly two nodes, not 3"),
    ("{fw-1: {priority: 150}, fw-2: {priority: 140}}", "{}", "nodes", "exactly two nodes, not 0"),
    ("{fw-1: {priority: 150}, fw-2: {priority: 140}}", "[fw-1, fw-2]", "nodes", "must be a mapping"),
    ("priority: 140", "priority: 150", "nodes.fw-2.priority", "same priority as fw-1"),
    ("priority: 140", "priority: 255", "nodes.fw-2.priority", "1 to 254"),
    ("priority: 140", "priority: 0", "nodes.fw-2.priority", "1 to 254"),
    ("priority: 140", "priority: 1_40", "nodes.fw-2.priority", "digits only"),
    ("priority: 140", "prio: 140", "nodes.fw-2.prio", "did you mean priority?"),
    ("fw-1: {priority", "fw_1: {priority", "nodes.fw_1", "not a host name"),
    ("fw-1: {priority", "FW-2: {priority", "nodes.fw-2", "in capitals only"),
    ("fw-1: {priority", "fw-2: {priority", "nodes.fw-2", "twice, first in line 3"),
    ("eth1:", "eth0:", "interfaces.eth0", "twice, first in line 5"),
    ("eth1:", "abcdefghijklmnop:", "interfaces.abcdefghijklmnop", "15 bytes"),
    ("eth1:", "ethé:", "interfaces.'eth\\xe9'", "15 bytes"),
    ("eth1:", '"e\\"1":', 'interfaces.e"1', "letters, digits"),
    ("eth1:", '"e\\n1":', "interfaces.'e\\n1'", "letters, digits"),
    ("eth1:", "'e 1':", "interfaces.e 1", "letters, digits"),
    ("eth1:", "'e;1':", "interfaces.e;1", "letters, digits"),
    ("eth1:", "'$(id)':", "interfaces.$(id)", "letters, digits"),
    ("eth1:", "'../x':", "interfaces.../x", "letters, digits"),
    ("eth1:", "'-e':", "interfaces.-e", "letters, digits"),
    ("eth1:", "'':", "interfaces.''", "letters, digits"),
    ("eth1:", "all:", "interfaces.all", "not an interface of the pair"),
    ("zone: client", "zone: Client", "interfaces.eth1.zone", "not a zone name"),
    ("zone: client", "zone: 'a b'", "interfaces.eth1.zone", "not a zone name"),
    ("zone: client, ", "", "interfaces.eth1", "zone is missing"),
    ("zone: sync", "zone: third", "interfaces", "no interface is in zone sync"),
    ("zone: sync, ", "zone: sync, vrid: 5, ", "interfaces.eth2.vrid", "the sync link has no vrid"),
    ("zone: sync, ", "zone: sync, vip: 192.168.1.9/24, ", "interfaces.eth2.vip", "the sync link has no vip"),
    ("vip: 192.168.2.100/24, ", "", "interfaces.eth1", "vip is missing"),
    ("vrid: 61,", "", "interfaces.eth1", "vrid is missing"),
    ("vip: 192.168.2.100/24, vrid: 61,", "", "interfaces.eth1", "vip is missing"),
    ("vip: 192.168.2.100/24", "vip: []", "interfaces.eth1.vip", "empty list"),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.100", "interfaces.eth1.vip", "prefix length"),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.100/33", "interfaces.eth1.vip", "not an address"),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.100/255.255.255.0", "interfaces.eth1.vip", "not an address"),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.300/24", "interfaces.eth1.vip", "not an address"),
    ("vip: 192.168.2.100/24", "vip: gateway/24", "interfaces.eth1.vip", "not an address"),
    ("vip: 192.168.2.100/24", "vip: '192.168.2.100/24 dev lo'", "interfaces.eth1.vip", "not an address"),
    ("vip: 192.168.2.100/24", "vip: 192.168.9.100/24", "interfaces.eth1.vip", "outside the networks"),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.100/16", "interfaces.eth1.vip", "outside the networks"),
    ("vip: 192.168.2.100/24", "vip: fd00::1/64", "interfaces.eth1.vip", "outside the networks"),
    (
        "vip: 192.168.2.100/24",
        "vip: 192.168.2.1/24",
        "interfaces.eth1.vip",
        "also the address at interfaces.eth1",
    ),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.255/24", "interfaces.eth1.vip", "broadcast"),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.0/24", "interfaces.eth1.vip", "address of the network"),
    ("vip: 192.168.2.100/24", "vip: 192.168.2.255/32", "interfaces.eth1.vip", "first or last address"),
    ("vip: 192.168.2.100/24", "vip: 127.0.0.1/8", "interfaces.eth1.vip", "not an address that an interface"),
    (
        "vip: 192.168.2.100/24",
        "vip: 224.0.0.18/24",
        "interfaces.eth1.vip",
        "not an address that an interface",
    ),
    ("vip: 192.168.2.100/24", "vip: 0.0.0.0/0", "interfaces.eth1.vip", "not an address that an interface"),
    ("vip: 192.168.2.100/24", "vip: 0.1.2.3/24", "interfaces.eth1.vip", "not an address that an interface"),
    (
        "vip: 192.168.2.100/24",
        "vip: 240.0.0.1/24",
        "interfaces.eth1.vip",
        "not an address that an interface",
    ),
    (
        "vip: 192.168.2.100/24",
        "vip: '::ffff:1.2.3.4/120'",
        "interfaces.eth1.vip",
        "IPv4 address written as IPv6",
    ),
    ("vip: 192.168.2.100/24", "vip: fe80::1/64", "interfaces.eth1.vip", "link-local"),
    ("vip: 192.168.2.100/24", "vip: 1:30", "interfaces.eth1.vip", "prefix length"),
    ("vrid: 61", "vrid: 62", "interfaces.eth1.vrid", "eth0 already has VRRP id 62"),
    ("vrid: 61", "vrid: 256", "interfaces.eth1.vrid", "1 to 255"),
    ("vrid: 61", "vrid: 0o17", "interfaces.eth1.vrid", "digits only"),
    ("vrid: 61", "vrid: 061", "interfaces.eth1.vrid", "digits only"),
    ("vrid: 61", "vrid: 1:30", "interfaces.eth1.vrid", "digits only"),
    ("vrid: 61", "vrid: 6e1", "interfaces.eth1.vrid", "digits only"),
    ("vrid: 61", "vrid: ٦١", "interfaces.eth1.vrid", "digits only"),
    ("fw-1: 192.168.2.1/24, ", "", "interfaces.eth1.addresses", "fw-1 has no address here"),
    ("fw-1: 192.168.2.1/24", "fw-9: 192.168.2.1/24", "interfaces.eth1.addresses.fw-9", "did you mean fw-"),
    (
        "fw-1: 192.168.2.1/24",
        "fw-1: 192.168.7.1/24",
        "interfaces.eth1.addresses.fw-1",
        "both need one there",
    ),
    (
        "fw-2: 192.168.2.2/24",
        "fw-2: 192.168.2.1/24",
        "interfaces.eth1.addresses.fw-2",
        "each address is there once",
    ),
    ("fw-2: 192.168.1.2/24}", "fw-2: 192.168.1.1/24}", "interfaces.eth2.addresses.fw-2", "there once"),
    (
        "addresses: {fw-1: 192.168.1.1/24",
        "addresses: &a {fw-1: 192.168.1.1/24",
        "interfaces.eth2.addresses",
        "anchors",
    ),
    ("pair: G1", "pair: !!str G1", "pair", "tags"),
    ("pair: G1", "pair: !!python/object/apply:os.system [id]", "pair", "tags"),
    ("pair: G1", "pair: G1\n? [a]\n: b", "?", "a key must be a single word"),
    ("pair: G1", "pair: G1\n<<: {a: b}", "<<", "unknown key"),
]


@pytest.mark.parametrize(("old", "new", "path", "message"), BAD)
def test_bad_value(old: str, new: str, path: str, message: str) -> None:
    found = problems_of(changed(old, new))
    assert any(problem.path == path and message in problem.message for problem in found), found


SECTIONS: list[tuple[str, str, str]] = [
    ("failover: {preempt: on}", "failover.preempt", "true or false"),
    ("failover: {preempt: 'true'}", "failover.preempt", "true or false"),
    ("failover: {preempt: 1}", "failover.preempt", "true or false"),
    ("failover: {advert_interval: 100}", "failover.advert_interval", "its unit"),
    ("failover: {advert_interval: 0.1s}", "failover.advert_interval", "invalid time"),
    ("failover: {advert_interval: 15ms}", "failover.advert_interval", "write 20ms"),
    ("failover: {advert_interval: 0ms}", "failover.advert_interval", "10ms to 40s"),
    ("failover: {advert_interval: 41s}", "failover.advert_interval", "10ms to 40s"),
    ("failover: fast", "failover", "must be a mapping"),
    ("sync: {mode: cached}", "sync.mode", "did you mean cache?"),
    ("sync: {port: 0}", "sync.port", "1 to 65535"),
    ("sync: {port: 3784}", "sync.port", "that of BFD"),
    ("sync: {port: 4784}", "sync.port", "that of BFD"),
    ("sync: {encrypt: ipsec}", "sync.encrypt", "wireguard"),
    ("sync: {encrypt: true}", "sync.encrypt", "wireguard"),
    ("sync: {wireguard_port: 51820}", "sync.wireguard_port", "there is no tunnel without encrypt"),
    ("sync: {encrypt: wireguard, wireguard_port: 65535}", "sync.wireguard_port", "1024 to 65534"),
    ("sync: {encrypt: wireguard, wireguard_port: 3780}", "sync.wireguard_port", "the replication in it"),
    ("sync: {encrypt: wireguard, wireguard_port: 4784}", "sync.wireguard_port", "is that of BFD"),
    ("sync: {refresh: 1h}", "sync.refresh", "invalid time"),
    ("gate: {then: drop}", "gate.then", "write one of: open, closed"),
    ("gate: {limit: -1s}", "gate.limit", "invalid time"),
    ("policy: {from: client}", "policy", "must be a list"),
    ("policy: [ssh]", "policy[0]", "must be a mapping"),
    ("policy: [{from: client, to: server}]", "policy[0]", "allow is missing"),
    ("policy: [{from: client, to: serv, allow: [ssh]}]", "policy[0].to", "did you mean server?"),
    ("policy: [{from: client, to: sync, allow: [ssh]}]", "policy[0]", "sync link"),
    ("policy: [{from: client, to: client, allow: [ssh]}]", "policy[0]", "to itself, which is one network"),
    ("policy: [{from: client, to: server, allow: []}]", "policy[0].allow", "names no service"),
    ("policy: [{from: client, to: server, allow: ssh}]", "policy[0].allow", "must be a list"),
    ("policy: [{from: client, to: server, allow: [htpp]}]", "policy[0].allow[0]", "did you mean http?"),
    ("policy: [{from: client, to: server, allow: [zzzz]}]", "policy[0].allow[0]", "write one of: ssh"),
    ("policy: [{from: client, to: server, allow: [{}]}]", "policy[0].allow[0]", "names no service"),
    (
        "policy: [{from: client, to: server, allow: [{upd: 5}]}]",
        "policy[0].allow[0].upd",
        "did you mean udp?",
    ),
    (
        "policy: [{from: client, to: server, allow: [{icmp: 5}]}]",
        "policy[0].allow[0].icmp",
        "not a request of icmp",
    ),
    ("policy: [{from: client, to: server, allow: [{tcp: 0}]}]", "policy[0].allow[0].tcp", "not a port"),
    ("policy: [{from: client, to: server, allow: [{tcp: 65536}]}]", "policy[0].allow[0].tcp", "1 to 65535"),
    ("policy: [{from: client, to: server, allow: [{tcp: 90-80}]}]", "policy[0].allow[0].tcp", "write 80-90"),
    ("policy: [{from: client, to: server, allow: [{tcp: '80'}]}]", "policy[0].allow[0].tcp", "in quotes"),
    (
        "policy: [{from: client, to: server, allow: [{tcp: [80, web]}]}]",
        "policy[0].allow[0].tcp[1]",
        "not a port",
    ),
    ("policy: [{from: client, to: server, allow: [{tcp: []}]}]", "policy[0].allow[0].tcp", "empty list"),
    ("nat: [{from: client, to: server, source: masquerade}]", "nat[0].source", "dies with the node"),
    ("nat: [{from: client, to: server}]", "nat[0]", "source is missing"),
    ("management: {}", "management", "lock management out"),
    ("management: {from: []}", "management.from", "lock management out"),
    ("management: {from: [client], services: []}", "management.services", "lock management out"),
    ("management: {from: [client], services: [icmp]}", "management.services", "lock management out"),
    ("management: {from: ['fd00::/64']}", "management.from[0]", "have no IPv6 address"),
    ("management: {from: [clien]}", "management.from[0]", "did you mean client?"),
    ("management: {from: [192.168.2.5/24]}", "management.from[0]", "write 192.168.2.0/24 or 192.168.2.5"),
    ("management: {services: [ssh]}", "management", "from is missing"),
]


@pytest.mark.parametrize(("section", "path", "message"), SECTIONS)
def test_bad_section(section: str, path: str, message: str) -> None:
    found = problems_of(SMALL + section + "\n")
    assert len(found) == 1, found
    assert found[0].path == path
    assert message in found[0].message


def test_as_many_virtual_addresses_as_one_packet_holds() -> None:
    many = ", ".join(f"192.168.2.{host}/24" for host in range(100, 164))
    assert len(parse(changed("192.168.2.100/24", f"[{many}]")).data_interfaces[1].vips) == 64
    (problem,) = problems_of(changed("192.168.2.100/24", f"[{many}, 192.168.2.164/24]"))
    assert "more than 64 IPv4 addresses" in problem.message


def test_overlapping_networks() -> None:
    text = SMALL.replace("192.168.2.", "192.168.0.").replace("0.100/24, vrid: 61", "0.101/24, vrid: 61")
    text = text.replace(
        "{fw-1: 192.168.0.1/24, fw-2: 192.168.0.2/24}", "{fw-1: 192.168.0.3/25, fw-2: 192.168.0.4/25}", 1
    )
    found = problems_of(text.replace("192.168.0.100/24", "192.168.0.100/25"))
    assert [problem.path for problem in found] == ["interfaces.eth1"]
    assert "overlaps 192.168.0.0/25 of eth0" in found[0].message


def test_a_zone_that_could_not_be_read_is_not_called_missing() -> None:
    text = changed("zone: client", "zone: Client") + "policy: [{from: client, to: server, allow: [ssh]}]\n"
    assert [problem.path for problem in problems_of(text)] == ["interfaces.eth1.zone"]


BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
)

NOT_YAML: list[tuple[str, str]] = [
    ("", "version is missing"),
    ("# nothing\n", "version is missing"),
    ("just words", "must be a mapping"),
    ("[1, 2]", "must be a mapping"),
    ("version: [1", "not valid YAML"),
    ("version: 1\n\tpair: G1", "line 2 has a tab"),
    ("%YAML 1.1\n---\nversion: 1\n", "directives"),
    ("version: 1\n---\nversion: 1\n", "second document"),
    ("a: \x00", "not valid YAML"),
    ("a: \ud800", "not UTF-8"),
    ("x: " + "[" * 5000, "more than 100 deep"),
    ("x: " + "[" * 5000 + "]" * 5000, "deep"),
    ("x: " + "{a: " * 3000 + "}" * 3000, "deep"),
    ("x: 1\n" * 250_000, "at most 1048576"),
    (BOMB, "anchors and aliases"),
]


@pytest.mark.parametrize(("text", "message"), NOT_YAML, ids=[message for _, message in NOT_YAML])
def test_not_a_pair_file(text: str, message: str) -> None:
    found = problems_of(text)
    assert any(message in problem.message for problem in found), found


def test_messages_stay_readable() -> None:
    """A foreign value is quoted, cut short and on one line, whatever it holds."""
    (problem,) = problems_of(changed("pair: G1", 'pair: "' + "\\e[2J\\n" * 500 + '"'))
    assert len(problem.message) < 200
    assert problem.message.isprintable()


def test_names_of_the_file_are_made_readable_too() -> None:
    found = problems_of(changed("fw-2: {priority", '"\\e[2J\\n' + "x" * 300 + '": {priority'))
    assert any("has no address here" in problem.message for problem in found)
    assert all(problem.message.isprintable() and len(problem.message) < 700 for problem in found)
