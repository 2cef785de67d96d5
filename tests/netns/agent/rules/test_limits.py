# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of the policy, with real connections: what is one source, how long it is counted, and what becomes
of those that find no room."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import loader
from agent.core.roles import RuleSet
from agent.rules.compile import compile_pair
from tests.netns.firewall import PAIR_FILE, Firewall, start_firewall
from tests.netns.packets import receive, udp

pytestmark = pytest.mark.netns

SERVER = {4: "192.168.0.10", 6: "fd00:0:0:a::10"}
CLIENT = {4: "192.168.2.10", 6: "fd00:0:0:c::10"}
versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as started:
        yield started


def load_limited(firewall: Firewall, limit: str) -> None:
    allowed = "  - {from: client, to: server, allow: [https, ftp, icmp, {udp: 5353}, {tcp: 8000-8010}]}"
    assert allowed in PAIR_FILE
    limited = f"  - {{from: client, to: server, name: few, allow: [{{udp: 5353}}], {limit}}}"
    rules = firewall.rules.succeed(compile_pair(loader.parse(PAIR_FILE.replace(allowed, limited))))
    rules.load(RuleSet.PRIMARY)
    assert rules.verify(RuleSet.PRIMARY).drift is None


def count_passing(firewall: Firewall, version: int, source: str, many: int = 20) -> int:
    """How many of so many new connections come through."""
    with udp(firewall.server, SERVER[version], 5353) as bound:
        for _ in range(many):
            with udp(firewall.client, source, 0) as ours:
                ours.sendto(b"question", (SERVER[version], 5353))
        passed = 0
        while receive(bound) is not None:
            passed += 1
    return passed


def neighbor(firewall: Firewall, address: str, length: int) -> str:
    """One more address of the client's."""
    firewall.client.ip(f"address add {address}/{length} dev eth0{' nodad' if ':' in address else ''}")
    return address


@pytest.mark.parametrize(
    ("version", "more", "other", "shared"),
    [
        (6, "", "fd00:0:0:c:1:2:3:4", True),
        (6, ", ipv6_prefix: 128", "fd00:0:0:c:1:2:3:4", False),
        (4, "", "192.168.2.11", False),
        (4, ", ipv4_prefix: 24", "192.168.2.11", True),
    ],
)
def test_a_source_is_a_network_to_the_limits(
    firewall: Firewall, version: int, more: str, other: str, shared: bool
) -> None:
    load_limited(firewall, f"limit: 1/hour burst 6 per source, connections: 1000 per source{more}")
    neighbor(firewall, other, 24 if version == 4 else 64)
    assert count_passing(firewall, version, CLIENT[version]) == 6
    assert count_passing(firewall, version, other) == (0 if shared else 6)


@versions
def test_a_bucket_is_kept_until_it_is_full_again(firewall: Firewall, version: int) -> None:
    load_limited(firewall, "limit: 1/second burst 40 per source")
    first = count_passing(firewall, version, CLIENT[version], 60)
    assert first >= 40
    # a second and a bit, after which one or two more may come
    assert not select.select([], [], [], 1.5)[0]
    assert count_passing(firewall, version, CLIENT[version], 60) < first / 2


@versions
@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("limit", "limit: 1/hour burst 6 per source"),
        ("connections", "connections: 6 per source"),
    ],
)
def test_sources_that_are_not_counted_share_one_limit(
    firewall: Firewall, tmp_path: Path, version: int, name: str, limit: str
) -> None:
    load_limited(firewall, limit)
    elements = [f"10.{one >> 8}.{one & 255}.1" for one in range(65_535)]
    if version == 6:
        elements = [f"2001:db8:0:{one + 1:x}::" for one in range(65_535)]
    full = tmp_path / "full.nft"
    full.write_text(f"add element inet hafw {name}/few/{version} {{ {', '.join(elements)} }}")
    firewall.nft(f"-f {full}")
    other = "192.168.2.11" if version == 4 else "fd00:0:0:c:1:2:3:4"
    neighbor(firewall, other, 24 if version == 4 else 64)
    # nf_conncount forgets an entry that another processor has not confirmed within two jiffies
    assert count_passing(firewall, version, CLIENT[version]) in (6, 7)
    assert count_passing(firewall, version, other) == 0


@versions
def test_a_connection_without_answers_is_one_to_a_limit(firewall: Firewall, version: int) -> None:
    load_limited(firewall, "limit: 1/hour burst 2")
    with (
        udp(firewall.server, SERVER[version], 5353) as bound,
        udp(firewall.client, CLIENT[version], 4000) as ours,
    ):
        for _ in range(10):
            ours.sendto(b"line", (SERVER[version], 5353))
            assert receive(bound, 3.0) == b"line"
    assert count_passing(firewall, version, CLIENT[version]) == 1
