# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether keepalived still listens: what the kernel's multicast groups show of it."""

import sys
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from agent.adapters.multicast import read_listening
from agent.config.loader import parse
from agent.core.groups import NOTHING_LOOKS, Group, Joined, Listening, judge_groups
from agent.core.links import Link
from agent.core.roles import Role
from agent.errors import UnavailableError
from tests.unit.agent.small_pair import SMALL, SMALL_6

PAIR = parse(SMALL)
PAIR_6 = parse(SMALL_6)
LINKS = tuple(Link(f"eth{number}", number, "", up=True, carrier=True) for number in range(3))
BOTH: frozenset[Group] = frozenset({("eth0", 4), ("eth1", 4)})
ETH0: frozenset[Group] = frozenset({("eth0", 4)})
NONE: frozenset[Group] = frozenset()


def judge(*looks: frozenset[Group], role: Role = Role.BACKUP, links: tuple[Link, ...] = LINKS) -> str | None:
    """After looks in a row: the words, or None when it is ok."""
    remembered, ok, text = Joined(), True, ""
    for joined in looks:
        remembered, (_, ok, text) = judge_groups(PAIR, role, links, Listening(joined), remembered)
    return None if ok else text


@pytest.mark.parametrize(
    ("looks", "deaf"),
    [
        ((BOTH, BOTH), None),
        ((BOTH, ETH0), None),
        ((BOTH, ETH0, BOTH), None),
        ((BOTH, ETH0, ETH0), "eth1"),
        ((BOTH, NONE, NONE), "eth0, eth1"),
        ((ETH0, ETH0), "eth1"),
        ((NONE, NONE, NONE), None),
        ((BOTH, ETH0, ETH0, BOTH), None),
    ],
    ids=[
        "ok",
        "a reload",
        "after a reload",
        "one is lost",
        "all are lost",
        "lost before the agent began",
        "unicast",
        "a restart ends it",
    ],
)
def test_two_looks_in_a_row(looks: tuple[frozenset[Group], ...], deaf: str | None) -> None:
    text = judge(*looks)
    if deaf is None:
        assert text is None
    else:
        assert text is not None
        assert f"listens on {deaf} and" in text


@pytest.mark.parametrize("role", [Role.STOPPED, Role.FAULT])
def test_a_keepalived_that_takes_no_part_need_not_listen(role: Role) -> None:
    assert judge(BOTH, ETH0, ETH0, role=role) is None


def test_a_fault_on_the_way_hides_nothing() -> None:
    """A pair with one link, or with all of them renamed at once."""
    remembered, _ = judge_groups(PAIR, Role.BACKUP, LINKS, Listening(BOTH), Joined())
    remembered, (_, ok, _) = judge_groups(PAIR, Role.FAULT, LINKS, Listening(), remembered)
    assert ok
    for expected in (True, False):
        remembered, (_, ok, _) = judge_groups(PAIR, Role.BACKUP, LINKS, Listening(), remembered)
        assert ok is expected


def test_all_were_gone_before_the_agent_began() -> None:
    """A pair with one link, or with all of them renamed at once: nothing is left to compare with."""
    assert judge(*[NONE] * NOTHING_LOOKS) is None, "it may just have started"
    text = judge(*[NONE] * (NOTHING_LOOKS + 1))
    assert text is not None
    assert "listens on eth0, eth1 and" in text
    assert judge(*[NONE] * (NOTHING_LOOKS + 1), BOTH) is None
    assert judge(*[NONE] * NOTHING_LOOKS, BOTH, BOTH, NONE) is None


@pytest.mark.parametrize("address", ["192.0.2.2", "2001:db8::2"])
def test_unicast_is_listened_for_as_well(address: str) -> None:
    """On one link only, by a file made by hand, or since a reload."""
    version = ip_address(address).version
    pair = PAIR if version == 4 else PAIR_6
    here = replace(LINKS[1], addresses=(ip_interface(f"{address}/24"),))
    links = (LINKS[0], here, LINKS[2])
    multicast: frozenset[Group] = frozenset({("eth0", version), ("eth1", version)})
    mixed = Listening(multicast - {("eth1", version)}, frozenset({ip_address(address)}))
    for looks in ([mixed] * 3, [Listening(multicast), *[mixed] * 3]):
        remembered = Joined()
        for seen in looks:
            remembered, (_, ok, _) = judge_groups(pair, Role.BACKUP, links, seen, remembered)
            assert ok
    for _ in range(2):  # and the socket for unicast is lost in its turn
        gone = Listening(mixed.joined)
        remembered, (_, ok, text) = judge_groups(pair, Role.BACKUP, links, gone, remembered)
    assert not ok
    assert "eth1" in text


def test_an_interface_of_keepalived_s_own_has_the_group() -> None:
    """use_vmac on one link, or on all."""
    for joined in ({("vrrp.61", 4), ("eth1", 4)}, {("vrrp.61", 4), ("vrrp.62", 4)}):
        assert judge(*[frozenset(joined)] * (NOTHING_LOOKS + 2)) is None


def test_a_link_that_is_down_is_reported_elsewhere() -> None:
    down = (LINKS[0], replace(LINKS[1], carrier=False), LINKS[2])
    assert judge(BOTH, ETH0, ETH0, links=down) is None


def test_what_a_keepalived_before_had_joined_is_forgotten_with_it() -> None:
    remembered, _ = judge_groups(PAIR, Role.BACKUP, LINKS, Listening(BOTH), Joined())
    remembered, _ = judge_groups(PAIR, Role.STOPPED, LINKS, Listening(), remembered)
    assert remembered == Joined()


IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
3\teth1      :     2      V3
\t\t\t\t120000E0     1 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0
4\teth2      :     1      V3
"""
IGMP6 = """1    lo              ff020000000000000000000000000001     1 0000000C 0
3    eth1            ff020000000000000000000000000012     1 00000004 0
"""


RAW = """  sl  local_address rem_address   st tx_queue
  57: 00000000:0070 00000000:0000 07 00000000
  57: 120000E0:0070 00000000:0000 07 00000000
  57: 0100060A:0070 00000000:0000 07 00000000
   1: 0200060A:0001 00000000:0000 07 00000000
"""
RAW6 = """  sl  local_address                         remote_address                        st
   57: 00000000000000000000000000000000:0070 00000000000000000000000000000000:0000 07
   57: 000000FD000000000000000001000000:0070 00000000000000000000000000000000:0000 07
   57: 000002FF000000000000000012000000:0070 00000000000000000000000000000000:0000 07
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the table is of a little-endian machine")
def test_what_the_kernel_shows(tmp_path: Path) -> None:
    (tmp_path / "igmp").write_text(IGMP)
    (tmp_path / "raw").write_text(RAW)
    assert read_listening(tmp_path) == Listening(
        frozenset({("eth1", 4)}), frozenset({ip_address("10.6.0.1")})
    )
    (tmp_path / "igmp6").write_text(IGMP6)
    (tmp_path / "raw6").write_text(RAW6)
    found = read_listening(tmp_path)
    assert found.joined == {("eth1", 4), ("eth1", 6)}
    assert found.bound == {ip_address("10.6.0.1"), ip_address("fd00::1")}
    (tmp_path / "igmp").write_bytes(IGMP.encode().replace(b"eth1", b"e\xff\x1c1"))
    assert ("eth1", 6) in read_listening(tmp_path).joined, "a name of any bytes is no end of the look"
    with pytest.raises(UnavailableError, match="cannot read who listens for VRRP"):
        read_listening(tmp_path / "none")
