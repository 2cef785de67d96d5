# SPDX-License-Identifier: GPL-2.0-or-later
"""Management reaches a firewall whose conntrack table is full of states that cannot be evicted."""

import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.core.roles import RuleSet
from tests.netns.firewall import Firewall, start_firewall
from tests.netns.packets import accept, connect, listen

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="fills the conntrack table")]

MAX_STATES = Path("/proc/sys/net/netfilter/nf_conntrack_max")
REASONABLE = 500_000
FILL_S = 120
CLIENT = "192.168.2.10"


@pytest.fixture(scope="module")
def firewall() -> Iterator[Firewall]:
    """The limit is the whole machine's, and what is counted against it is a namespace's own."""
    with start_firewall() as made:
        made.rules.load(RuleSet.PRIMARY)
        most = int(MAX_STATES.read_text())
        if most > REASONABLE:
            pytest.skip(f"it would take {most} states")
        fill(made, most)
        yield made


def fill(firewall: Firewall, most: int) -> None:
    first = int(ip_address("10.0.0.0"))
    lines = "".join(
        f"-I -p tcp --timeout 1000 --state ESTABLISHED -u SEEN_REPLY,ASSURED --sport {one % 60_000 + 1000} "
        f"--dport 443 -s {ip_address(first + one // 60_000)} -d 192.168.0.10\n"
        for one in range(most + 100)
    )
    with firewall.node.entered():
        argv = ["conntrack", "--load-file", "-"]
        subprocess.run(argv, input=lines, capture_output=True, text=True, timeout=FILL_S, check=False)
    held = int(firewall.node.run("conntrack", "-C"))
    assert held >= most, "the table is not full"


@pytest.mark.parametrize("address", ["192.168.2.1", "fd00:0:0:c::1"])
def test_ssh_from_a_permitted_source_gets_through(firewall: Firewall, address: str) -> None:
    with listen(firewall.node, address, 22) as listener:
        near = connect(firewall.client, address, 22)
        assert near is not None, "locked out"
        with near, accept(listener) as far:
            near.send(b"who?")
            assert far.recv(10) == b"who?"
            far.send(b"root")
            assert near.recv(10) == b"root"


def test_nothing_else_does(firewall: Firewall) -> None:
    """Neither another port, nor another source, nor a way through the firewall."""
    for node, address, port in (
        (firewall.client, "192.168.2.1", 80),
        (firewall.server, "192.168.0.1", 22),
        (firewall.client, "192.168.0.1", 22),
    ):
        with listen(firewall.node, address, port):
            assert connect(node, address, port) is None
    with listen(firewall.server, "192.168.0.10", 443):
        assert connect(firewall.client, "192.168.0.10", 443) is None


@pytest.mark.parametrize("role", RuleSet)
def test_no_entry_is_made_of_management(role: RuleSet) -> None:
    with start_firewall() as firewall:
        firewall.rules.load(role)
        with listen(firewall.node, "192.168.2.1", 22) as listener:
            near = connect(firewall.client, "192.168.2.1", 22)
            assert near is not None
            with near, accept(listener):
                assert CLIENT not in firewall.node.run("conntrack", "-L")
