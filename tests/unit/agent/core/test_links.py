# SPDX-License-Identifier: GPL-2.0-or-later
"""What the interfaces show: the words for each, and when it is ok."""

from dataclasses import replace
from ipaddress import ip_interface

import pytest

from agent.config.loader import parse
from agent.core.conditions import Condition
from agent.core.links import (
    STUCK_LOOKS,
    Link,
    SendsOver,
    can_send,
    find_fault,
    hear_sending,
    judge_links,
)
from agent.core.roles import Role
from agent.model.pair import Pair
from tests.unit.agent.small_pair import SMALL

PAIR = parse(SMALL)
LO = Link("lo", 1, "loopback", up=True, carrier=True, addresses=(ip_interface("127.0.0.1/8"),))
NODE = "fw-1"
ETH = tuple(
    Link(one.name, number, "", up=True, carrier=True, addresses=one.own(NODE))
    for number, one in enumerate(PAIR.interfaces, 2)
)
WELL = (LO, *ETH)
GUEST = Link("eth3", 9, "", up=True, carrier=True, addresses=(ip_interface("10.0.0.1/24"),))


def changed(name: str, *, up: bool = True, carrier: bool = False) -> tuple[Link, ...]:
    return tuple(replace(link, up=up, carrier=carrier) if link.name == name else link for link in WELL)


def bare(name: str) -> tuple[Link, ...]:
    return tuple(replace(link, addresses=()) if link.name == name else link for link in WELL)


def without(name: str) -> tuple[Link, ...]:
    return tuple(link for link in WELL if link.name != name)


@pytest.mark.parametrize(
    ("links", "role", "problems"),
    [
        (WELL, Role.BACKUP, {}),
        (WELL, Role.PRIMARY, {}),
        (changed("eth2", carrier=False), Role.PRIMARY, {"sync-link": "eth2 has no carrier"}),
        (changed("eth2", up=False, carrier=False), Role.BACKUP, {"sync-link": "eth2 is down"}),
        (
            without("eth2"),
            Role.BACKUP,
            {
                "sync-link": "eth2 does not exist on this node",
                "missing-interface": "eth2 of the pair file does not exist on this node, which has eth0",
            },
        ),
        (changed("eth0", carrier=False), Role.FAULT, {"fault": "cannot be primary: eth0 has no carrier"}),
        (
            changed("eth1", up=False),
            Role.FAULT,
            {"fault": "cannot be primary: eth1 is down"},
        ),
        (
            without("eth0"),
            Role.FAULT,
            {"fault": "eth0 does not exist on this node", "missing-interface": "eth0 of the pair file"},
        ),
        (bare("eth2"), Role.PRIMARY, {"sync-link": "eth2 has lost this node's 192.168.1.1/24"}),
        (bare("eth1"), Role.FAULT, {"fault": "be primary: eth1 has lost this node's 192.168.2.1/24"}),
        (WELL, Role.FAULT, {"fault": "all links are up; keepalived's log"}),
        # a data link that keepalived has not yet noticed
        (changed("eth0", carrier=False), Role.BACKUP, {}),
        (
            (*WELL, GUEST),
            Role.BACKUP,
            {"unzoned-interface": "eth3 (10.0.0.1/24): in no zone of the pair file; nothing that arrives"},
        ),
    ],
)
def test_problems_of_links(links: tuple[Link, ...], role: Role, problems: dict[str, str]) -> None:
    findings = {
        condition.value: text for condition, ok, text in judge_links(PAIR, NODE, role, links) if not ok
    }
    assert findings.keys() == problems.keys()
    for name, words in problems.items():
        assert words in findings[name]


def test_each_look_says_the_same_conditions() -> None:
    """What a look has begun only the same look can end."""
    looks = ((WELL, Role.BACKUP), ((), Role.FAULT), ((*WELL, GUEST), Role.PRIMARY))
    found = [
        [condition for condition, _, _ in judge_links(PAIR, NODE, role, links)] for links, role in looks
    ]
    assert found == [found[0]] * 3
    assert len(set(found[0])) == len(found[0])


@pytest.mark.parametrize(
    "link",
    [
        LO,
        replace(GUEST, up=False),
        replace(GUEST, carrier=False),
        replace(GUEST, addresses=()),
        replace(GUEST, addresses=(ip_interface("fe80::1/64"), ip_interface("169.254.3.4/16"))),
        replace(GUEST, kind="dummy"),
        replace(GUEST, kind="vrf"),
        replace(GUEST, name="eth0"),
    ],
    ids=["loopback", "down", "no carrier", "no address", "link-local only", "dummy", "vrf", "in the file"],
)
def test_interfaces_that_are_nobodys_way_in(link: Link) -> None:
    links = (*(one for one in WELL if one.name != link.name), link)
    findings = {condition: ok for condition, ok, _ in judge_links(PAIR, NODE, Role.BACKUP, links)}
    assert findings[Condition.UNZONED_INTERFACE]


def test_a_link_that_could_carry_has_no_fault() -> None:
    assert find_fault("eth0", WELL) is None


ENCRYPTED = parse(SMALL + "sync: {encrypt: wireguard}\n")
INSIDE = ENCRYPTED.tunnels[0].inside
WG = Link(INSIDE.name, 8, "wireguard", up=True, carrier=True, addresses=INSIDE.own(NODE))


@pytest.mark.parametrize(
    ("links", "problems"),
    [
        ((*WELL, WG), {}),
        (
            (*changed("eth2", carrier=False), WG),
            {"sync-link": "the sync link is down (eth2 has no carrier); states"},
        ),
        (
            (*WELL, replace(WG, up=False)),
            {"sync-link": "the sync link is down (hafw-wg0 is down); states are not replicated"},
        ),
        (
            (*WELL, replace(WG, addresses=())),
            {"sync-link": f"(hafw-wg0 has lost this node's {INSIDE.own(NODE)[0]})"},
        ),
        (
            WELL,
            {
                "sync-link": "(hafw-wg0 does not exist on this node)",
                "missing-interface": "hafw-wg0 of the pair file does not exist on this node",
            },
        ),
    ],
    ids=["well", "no carrier below it", "down", "without its address", "not there"],
)
def test_a_tunnel_is_judged_with_the_wire_below_it(
    links: tuple[Link, ...], problems: dict[str, str]
) -> None:
    found = judge_links(ENCRYPTED, NODE, Role.BACKUP, links)
    findings = {condition.value: text for condition, ok, text in found if not ok}
    assert findings.keys() == problems.keys()
    for name, words in problems.items():
        assert words in findings[name]


SPARE = "  eth2: {zone: sync,"
TWO = parse(
    SMALL.replace(
        SPARE, f"  eth3: {{zone: sync, addresses: {{fw-1: 192.168.3.1/24, fw-2: 192.168.3.2/24}}}}\n{SPARE}"
    )
)


@pytest.mark.parametrize(
    ("down", "problems"),
    [
        ((), {}),
        (("eth3",), {"spare-link": "(eth3 is down); this node sends states over eth2"}),
        (("eth2",), {"spare-link": "(eth2 is down); this node sends states over eth3"}),
        (("eth2", "eth3"), {"sync-link": "both sync links are down (eth3 is down, eth2 is down)"}),
    ],
)
def test_of_two_sync_links_one_is_enough(down: tuple[str, ...], problems: dict[str, str]) -> None:
    links = tuple(
        Link(one.name, number, "", up=one.name not in down, carrier=True, addresses=one.own(NODE))
        for number, one in enumerate(TWO.interfaces, 2)
    )
    found = {
        condition.value: text for condition, ok, text in judge_links(TWO, NODE, Role.BACKUP, links) if not ok
    }
    assert found.keys() == problems.keys()
    assert all(words in found[name] for name, words in problems.items())


TWO_LINKS = tuple(
    Link(one.name, number, "", up=True, carrier=True, addresses=one.own(NODE))
    for number, one in enumerate(TWO.interfaces, 2)
)
TUNNELED = replace(TWO, sync=ENCRYPTED.sync)
TUNNELS = tuple(
    Link(one.inside.name, number, "wireguard", up=True, carrier=True, addresses=one.inside.own(NODE))
    for number, one in enumerate(TUNNELED.tunnels, 20)
)
BOTH = (*TWO_LINKS, *TUNNELS)
"""hafw-wg0 goes over eth3, which the pair file names first, and hafw-wg1 over eth2."""


def cut(links: tuple[Link, ...], *names: str) -> tuple[Link, ...]:
    return tuple(replace(link, carrier=False) if link.name in names else link for link in links)


def said_of_sync(pair: Pair, links: tuple[Link, ...], *named: str) -> dict[str, str]:
    """What is wrong after conntrackd has named a link in each of its answers."""
    sending = SendsOver()
    for name in named:
        sending = hear_sending(pair, NODE, links, sending, name)
    found = judge_links(pair, NODE, Role.BACKUP, links, sending)
    bad = {condition.value: text for condition, ok, text in found if not ok}
    assert can_send(pair, NODE, links, sending) == ("sync-link" not in bad)
    return bad


@pytest.mark.parametrize(
    ("pair", "links", "first", "second"),
    [(TWO, TWO_LINKS, "eth3", "eth2"), (TUNNELED, BOTH, "hafw-wg0", "hafw-wg1")],
    ids=["links", "tunnels"],
)
def test_the_link_in_use_is_the_one_that_conntrackd_names(
    pair: Pair, links: tuple[Link, ...], first: str, second: str
) -> None:
    """It does not return to the first link when that has recovered. The cable is named, not the tunnel."""
    assert said_of_sync(pair, links, second) == {}
    used_is_cut = cut(links, "eth2", second)
    # it is about to leave it; that is no alarm of the link in use
    assert said_of_sync(pair, used_is_cut, second) == {
        "spare-link": "one of two sync links is down (eth2 has no carrier); this node sends states over eth3"
    }
    first_is_cut = cut(links, "eth3", first)
    text = "one of two sync links is down (eth3 has no carrier); this node sends states over eth2"
    for named in ((), (first,), (second,), (second,) * 9):
        assert said_of_sync(pair, first_is_cut, *named) == {"spare-link": text}
    lost = tuple(replace(link, addresses=()) if link.name == second else link for link in links)
    assert said_of_sync(pair, lost, first).keys() == {"spare-link"}
    assert f"({second} has lost this node's " in said_of_sync(pair, lost, second)["sync-link"]


def test_a_conntrackd_that_stays_with_a_link_without_carrier_is_named() -> None:
    """As one does that was started without a carrier on the first link, until any link changes."""
    links = cut(TWO_LINKS, "eth3")
    for looks in range(STUCK_LOOKS):
        assert said_of_sync(TWO, links, *["eth3"] * looks).keys() == {"spare-link"}
    assert said_of_sync(TWO, links, *["eth3"] * STUCK_LOOKS) == {
        "sync-link": "the sync link is down (eth3 has no carrier); states are not replicated:"
        " conntrackd stays with it beside eth2, which works"
    }
    assert said_of_sync(TWO, links, *["eth3"] * STUCK_LOOKS, "eth2").keys() == {"spare-link"}
    both = cut(TWO_LINKS, "eth3", "eth2")
    assert said_of_sync(TWO, both, *["eth3"] * STUCK_LOOKS) == {
        "sync-link": "both sync links are down (eth3 has no carrier, eth2 has no carrier); states are not"
        " replicated"
    }


def test_a_tunnel_that_is_down_is_left_though_its_cable_is_well() -> None:
    down = tuple(replace(link, up=False) if link.name == "hafw-wg0" else link for link in BOTH)
    assert said_of_sync(TUNNELED, down, "hafw-wg1") == {
        "spare-link": "one of two sync links is down (hafw-wg0 is down); this node sends states over eth2"
    }
    assert said_of_sync(TUNNELED, cut(down, "eth2"), "hafw-wg1") == {
        "sync-link": "both sync links are down (hafw-wg0 is down, eth2 has no carrier); states are not"
        " replicated"
    }


def test_a_name_of_no_sync_link_says_nothing() -> None:
    """Of a conntrackd.conf that was made by hand, or for another pair file."""
    assert said_of_sync(TWO, TWO_LINKS, *["eth9"] * 5) == {}
    assert said_of_sync(TWO, cut(TWO_LINKS, "eth3"), *["eth9"] * 5).keys() == {"spare-link"}


def test_the_cable_of_a_tunnel_has_its_name_for_people() -> None:
    assert TUNNELED.replication_names == {"hafw-wg0": "hafw-wg0 (on eth3)", "hafw-wg1": "hafw-wg1 (on eth2)"}
    assert TWO.replication_names == {"eth3": "eth3", "eth2": "eth2"}


def test_conntrackd_does_not_leave_a_link_that_has_lost_its_address() -> None:
    links = tuple(
        Link(
            one.name,
            number,
            "",
            up=True,
            carrier=True,
            addresses=() if one.name == "eth3" else one.own(NODE),
        )
        for number, one in enumerate(TWO.interfaces, 2)
    )
    bad = {
        condition.value: text for condition, ok, text in judge_links(TWO, NODE, Role.BACKUP, links) if not ok
    }
    assert bad.keys() == {"sync-link"}
    assert "the sync link is down (eth3 has lost" in bad["sync-link"]
