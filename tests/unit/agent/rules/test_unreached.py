# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw check` warns of: entries that can never take effect, and nothing that can."""

import pytest

from agent.config.loader import load, parse
from agent.rules.source_check import find_believed
from agent.rules.unreached import find_unreached
from tests.checkout import EXAMPLES

HEAD = """\
version: 1
pair: G1
nodes: {fw-1: {priority: 150}, fw-2: {priority: 140}}
interfaces:
  eth0: {zone: server, vip: [192.168.0.100/24, 192.168.0.101/24, "fd00:a::100/64"], vrid: 62,
         addresses: {fw-1: [192.168.0.1/24, "fd00:a::1/64"], fw-2: [192.168.0.2/24, "fd00:a::2/64"]}}
  eth1: {zone: client, vip: [192.168.2.100/24, "fd00:c::100/64"], vrid: 61,
         addresses: {fw-1: [192.168.2.1/24, "fd00:c::1/64"], fw-2: [192.168.2.2/24, "fd00:c::2/64"]}}
  eth2: {zone: sync, addresses: {fw-1: 192.168.1.1/24, fw-2: 192.168.1.2/24}}
management: {from: [192.168.2.0/25], services: [ssh]}
sets:
  all: [10.0.0.0/8, 0.0.0.0/0]
  halves: ["::/1", "8000::/1"]
  some: [192.168.0.10-192.168.0.20]
  moving: {dynamic: true}
"""


def said(*lines: str) -> list[tuple[str, str]]:
    section = "".join(f"  - {{{line}}}\n" for line in lines)
    name = "policy" if any(word in lines[0] for word in ("allow", "drop", "reject")) else "nat"
    return [(one.path, one.message) for one in find_unreached(parse(f"{HEAD}{name}:\n{section}"))]


TO_SERVER = "from: client, to: server"
BACK = "from: server, to: client"
TO_SELF = "from: client, to: self"


@pytest.mark.parametrize(
    ("lines", "place", "message"),
    [
        ((f"{TO_SELF}, drop: [ping]",), "policy[0]", "an echo request to the firewalls is always accepted"),
        ((f"{TO_SELF}, drop: [{{icmpv6: echo-request}}]",), "policy[0]", "is always accepted"),
        ((f"{TO_SELF}, name: a, allow: [ping], limit: 1/second",), "policy[0]", "is always accepted"),
        ((f"{TO_SELF}, reject: [ssh]",), "policy[0]", "ssh from 192.168.2.0/25: that is management"),
        ((f"{TO_SELF}, drop: [ssh], source: 192.168.2.9",), "policy[0]", "that is management"),
        (
            (f"{TO_SELF}, allow: [dns], destination: 192.168.0.9",),
            "policy[0]",
            "not an address of the firewalls",
        ),
        ((f"{TO_SELF}, allow: [bfd]",), "policy[0]", "among themselves only"),
        (
            (f"{TO_SELF}, drop: [{{protocol: 112}}, dns]",),
            "policy[0]",
            "among themselves only",
        ),
        ((f"{TO_SERVER}, drop: [https], destination: 192.168.2.100",), "policy[0]", "the firewalls' own"),
        (
            (f"{TO_SERVER}, drop: [https], source: all",),
            "policy[0]",
            "every IPv4 address: all holds 0.0.0.0/0",
        ),
        ((f"{TO_SERVER}, drop: [https], source: halves",), "policy[0]", "halves holds ::/0"),
        ((f"{TO_SERVER}, reject: [any], source: ['::/0']",), "policy[0]", "every IPv6 address"),
        ((f"{TO_SERVER}, allow: [any], destination: 239.1.1.1",), "policy[0]", "not routed here"),
        ((f"{TO_SERVER}, allow: [any], destination: 'ff0e::1'",), "policy[0]", "not routed here"),
        ((f"{TO_SERVER}, allow: [any], source: 192.168.0.7",), "policy[0]", "source is connected to eth0"),
        ((f"{TO_SERVER}, allow: [any], destination: 192.168.2.7",), "policy[0]", "in client, not in server"),
        (
            (f"{TO_SERVER}, allow: [any]", f"{TO_SERVER}, drop: [ssh]"),
            "policy[1]",
            "policy[0] decides before",
        ),
        (
            (
                f"{TO_SERVER}, allow: [{{tcp: 1-100}}], destination: some",
                f"{TO_SERVER}, name: a, drop: [ssh, http], destination: 192.168.0.12-192.168.0.14",
            ),
            "policy[1]",
            "policy[0] decides before",
        ),
        (
            (f"{TO_SERVER}, allow: [ssh], source: moving", f"{TO_SERVER}, drop: [ssh], source: moving"),
            "policy[1]",
            "policy[0] decides before",
        ),
        ((f"{TO_SERVER}, services: [ssh], destination: 192.168.2.9",), "nat[0]", "leads nowhere"),
        ((f"{TO_SERVER}, services: [ssh], destination: 192.168.0.2",), "nat[0]", "is a node's own"),
        (
            (f"{TO_SERVER}, source: keep, match: {{source: 192.168.0.9}}",),
            "nat[0]",
            "source is connected to eth0",
        ),
        (
            (
                f"{TO_SERVER}, source: keep, match: {{source: 192.168.2.0/25}}",
                f"{TO_SERVER}, source: vip, match: {{source: 192.168.2.9, services: [ssh]}}",
            ),
            "nat[1]",
            "nat[0] decides before it",
        ),
        (
            (
                f"{TO_SERVER}, services: [http, https], destination: [192.168.0.9, 'fd00:a::9']",
                f"{TO_SERVER}, services: [https], address: 192.168.2.100, destination: 192.168.0.10",
            ),
            "nat[1]",
            "nat[0] decides before it",
        ),
        (
            (
                "from: client, to: server, prefix: {inside: 192.168.2.9/32, outside: 192.168.0.101/32}",
                f"{BACK}, services: [ssh], address: 192.168.0.101, destination: 192.168.2.7",
            ),
            "nat[1]",
            "nat[0] decides before it",
        ),
    ],
)
def test_what_never_takes_effect_is_reported_with_its_place(
    lines: tuple[str, ...], place: str, message: str
) -> None:
    found = said(*lines)
    assert [path for path, _ in found] == [place], found
    assert message in found[0][1]
    assert "(line " in found[0][1]


def test_a_rule_against_the_public_address_of_a_forward() -> None:
    text = f"""{HEAD}
policy: [{{{TO_SERVER}, drop: [https], destination: 203.0.113.9, source: 192.168.2.66}}]
nat: [{{{TO_SERVER}, services: [https], address: 203.0.113.9, destination: 192.168.0.9}}]
"""
    (found,) = find_unreached(parse(text))
    assert found.path == "policy[0]"
    assert "name the server as destination" in found.message
    assert find_unreached(parse(text.replace("drop: [https]", "drop: [ssh, https]"))) == ()


WEB = f"{TO_SERVER}, services: [https, dns], destination: 192.168.0.9"


@pytest.mark.parametrize(
    ("rule", "nat", "message"),
    [
        (f"{TO_SELF}, allow: [ntp, https]", WEB, "https at 192.168.2.100: nat[0] leads that to a server"),
        (f"{TO_SELF}, drop: [https], destination: 192.168.2.100", WEB, "https at 192.168.2.100"),
        (f"{TO_SELF}, allow: [https], destination: 192.168.0.100", WEB, ""),
        (f"{TO_SELF}, allow: [https], destination: 192.168.2.1", WEB, ""),
        (f"{TO_SELF}, allow: [https]", f"{WEB}, match: {{source: 192.168.2.7}}", ""),
        (
            f"{TO_SELF}, allow: [https], source: 192.168.2.7",
            f"{WEB}, match: {{source: 192.168.2.0/28}}",
            "https",
        ),
        (f"{TO_SELF}, allow: [{{tcp: 440-443}}]", WEB, ""),
        (f"{TO_SELF}, allow: [any]", WEB, ""),
        ("from: server, to: self, allow: [https]", WEB, ""),
        ("from: server, to: self, allow: [https]", f"{WEB}, hairpin: true", ""),
        (
            "from: server, to: self, allow: [https], destination: 192.168.2.100",
            f"{WEB}, hairpin: true",
            "https at 192.168.2.100",
        ),
        (
            "from: server, to: self, allow: [https]",
            f"{BACK}, services: [https], address: 192.168.0.101, destination: 192.168.2.9",
            "",
        ),
        (
            "from: server, to: self, allow: [https], destination: 192.168.0.101",
            "from: client, to: server, prefix: {inside: 192.168.2.9/32, outside: 192.168.0.101/32}",
            "https at 192.168.0.101",
        ),
        (
            f"{TO_SELF}, allow: [https]",
            f"{TO_SERVER}, services: [https], destination: 'fd00:a::9'",
            "https at fd00:c::100",
        ),
        # management stays where it is; from elsewhere it is led away
        (f"{TO_SELF}, allow: [ssh]", f"{TO_SERVER}, services: [ssh], destination: 192.168.0.9", ""),
        (
            f"{TO_SELF}, allow: [ssh], source: 192.168.2.128/25",
            f"{TO_SERVER}, services: [ssh], destination: 192.168.0.9",
            "ssh at 192.168.2.100",
        ),
    ],
)
def test_a_rule_to_self_whose_service_is_led_to_a_server(rule: str, nat: str, message: str) -> None:
    found = find_unreached(parse(f"{HEAD}policy: [{{{rule}}}]\nnat: [{{{nat}}}]\n"))
    assert [one.path for one in found] == (["policy[0]"] if message else []), found
    assert all(message in one.message for one in found)


@pytest.mark.parametrize(
    "lines",
    [
        (f"{TO_SELF}, allow: [{{udp: [3784, 3785]}}, {{protocol: [112, 47]}}]",),
        (f"{TO_SELF}, drop: [any]",),
        (f"{TO_SELF}, allow: [ping, ssh, dns]",),
        (f"{TO_SELF}, drop: [ssh], source: 192.168.2.128/25",),
        (f"{TO_SELF}, allow: [{{udp: 67}}], destination: 255.255.255.255",),
        (f"{TO_SERVER}, drop: [any], source: moving", f"{TO_SERVER}, allow: [any], source: 192.168.2.9"),
        (f"{TO_SERVER}, allow: [any], source: all",),
        (f"{TO_SERVER}, allow: [ssh]", f"{TO_SERVER}, drop: [ssh, http]"),
        (f"{TO_SERVER}, allow: [{{tcp: 22}}]", f"{TO_SERVER}, drop: [{{udp: 22}}, ping]"),
        (f"{TO_SERVER}, allow: [any], source: 192.168.2.0/25", f"{TO_SERVER}, drop: [any]"),
        (
            f"{TO_SERVER}, allow: [any], source: 192.168.2.0/25",
            f"{TO_SERVER}, drop: [any], source: 'fd00:c::9'",
        ),
        (
            f"{TO_SERVER}, source: 203.0.113.7, match: {{source: [192.168.2.9, 'fd00:c::9']}}",
            f"{TO_SERVER}, source: vip, match: {{source: 'fd00:c::9'}}",
        ),
        (
            f"{TO_SERVER}, services: [ssh], destination: 192.168.0.9, match: {{source: 192.168.2.9}}",
            f"{TO_SERVER}, services: [ssh], destination: 192.168.0.10",
        ),
        (
            f"{TO_SERVER}, services: [ssh], destination: 192.168.0.9",
            f"{TO_SERVER}, services: [ssh], destination: 192.168.0.9, hairpin: true",
        ),
    ],
)
def test_nothing_is_said_of_what_may_take_effect(lines: tuple[str, ...]) -> None:
    assert said(*lines) == []


@pytest.mark.parametrize("name", ["pair.yaml", "dual-stack.yaml", "policy.yaml"])
def test_the_examples_are_without_warnings(name: str) -> None:
    assert find_unreached(load(EXAMPLES / name)) == ()


@pytest.mark.parametrize(
    ("services", "names"),
    [("[ssh, dns]", "dns"), ("[ssh, {udp: 161}, {udp: 514}]", "161"), ("[ssh]", ""), ("[{sctp: 9}]", "")],
)
def test_management_that_believes_any_source_is_named(services: str, names: str) -> None:
    unchecked = HEAD.replace("vrid: 61,", "vrid: 61, no_source_check: two uplinks,")
    text = unchecked.replace("services: [ssh]", f"services: {services}")
    found = list(find_believed(parse(text)))
    assert [one.path for one in found] == (["interfaces.eth1.no_source_check"] if names else [])
    assert all(names in one.message for one in found)
    assert not list(find_believed(parse(HEAD.replace("services: [ssh]", f"services: {services}"))))
