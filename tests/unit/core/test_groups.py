"""Whether keepalived still listens: what the kernel's multicast groups show of it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.multicast import read_groups
from agent.config import parse
from agent.core.groups import Group, Joined, judge_groups
from agent.core.links import Link
from agent.core.roles import Role
from agent.errors import UnavailableError
from tests.unit.small_pair import SMALL

PAIR = parse(SMALL)
LINKS = tuple(Link(f"eth{number}", number, "", up=True, carrier=True) for number in range(3))
BOTH: frozenset[Group] = frozenset({("eth0", 4), ("eth1", 4)})
ETH0: frozenset[Group] = frozenset({("eth0", 4)})
NONE: frozenset[Group] = frozenset()


def judge(*looks: frozenset[Group], role: Role = Role.BACKUP, links: tuple[Link, ...] = LINKS) -> str | None:
    """After looks in a row: the words, or None when it is well."""
    remembered, well, text = Joined(), True, ""
    for joined in looks:
        remembered, (_, well, text) = judge_groups(PAIR, role, links, joined, remembered)
    return None if well else text


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
        "well",
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
def test_who_takes_no_part_need_not_listen(role: Role) -> None:
    assert judge(BOTH, ETH0, ETH0, role=role) is None


def test_a_fault_on_the_way_hides_nothing() -> None:
    """A pair with one link, or with all of them renamed at once."""
    remembered, _ = judge_groups(PAIR, Role.BACKUP, LINKS, BOTH, Joined())
    remembered, (_, well, _) = judge_groups(PAIR, Role.FAULT, LINKS, NONE, remembered)
    assert well
    for expected in (True, False):
        remembered, (_, well, _) = judge_groups(PAIR, Role.BACKUP, LINKS, NONE, remembered)
        assert well is expected


def test_a_link_that_is_down_is_told_by_others() -> None:
    down = (LINKS[0], replace(LINKS[1], carrier=False), LINKS[2])
    assert judge(BOTH, ETH0, ETH0, links=down) is None


def test_what_a_keepalived_before_had_joined_is_forgotten_with_it() -> None:
    remembered, _ = judge_groups(PAIR, Role.BACKUP, LINKS, BOTH, Joined())
    remembered, _ = judge_groups(PAIR, Role.STOPPED, LINKS, NONE, remembered)
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


@pytest.mark.skipif(sys.byteorder == "big", reason="the table is of a little-endian machine")
def test_what_the_kernel_shows(tmp_path: Path) -> None:
    (tmp_path / "igmp").write_text(IGMP)
    assert read_groups(tmp_path) == {("eth1", 4)}
    (tmp_path / "igmp6").write_text(IGMP6)
    assert read_groups(tmp_path) == {("eth1", 4), ("eth1", 6)}
    (tmp_path / "igmp").write_bytes(IGMP.encode().replace(b"eth1", b"e\xff\x1c1"))
    assert ("eth1", 6) in read_groups(tmp_path), "a name of any bytes is no end of the look"
    with pytest.raises(UnavailableError, match="cannot read the multicast groups"):
        read_groups(tmp_path / "none")
