# SPDX-License-Identifier: GPL-2.0-or-later
"""From boot to the agent's rules nothing is forwarded, also when the agent never starts."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.roles import RuleSet
from tests.checkout import ROOT
from tests.netns.firewall import PAIR_FILE, Firewall, start_firewall
from tests.netns.flood import FORBIDDEN_PORT, Flood
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

BOOT = ROOT / "systemd" / "boot.nft"
LIMIT_S = 60
SETTLE = """
mount -t tmpfs none /run && mount -t tmpfs none /var/log && mount -t tmpfs none /var/lib
exec /usr/bin/python3 -P -m agent settle --file "$PAIR_FILE" --node fw-1
"""


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as made:
        yield made


def load_boot_policy(firewall: Firewall) -> "subprocess.CompletedProcess[str]":
    with firewall.node.entered():
        return subprocess.run(["nft", "-f", str(BOOT)], capture_output=True, text=True, timeout=LIMIT_S)


def settle(firewall: Firewall, tmp_path: Path) -> None:
    """The agent's start and first plan, by the program itself."""
    pair_file = tmp_path / "hafw.yaml"
    pair_file.write_text(PAIR_FILE)
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(ROOT),
        "PAIR_FILE": str(pair_file),
    }
    with firewall.node.entered():
        argv = ["unshare", "-m", "--propagation", "private", "/bin/sh", "-ec", SETTLE]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_gets_through_from_boot_to_the_agents_rules(firewall: Firewall, tmp_path: Path) -> None:
    flood = Flood(firewall)
    with flood.running():
        until(lambda: flood.came() > 0, LIMIT_S, "without any policy the packets do not come through either")
        assert load_boot_policy(firewall).returncode == 0
        flood.resume()
        flood.came()
        flood.resume()
        settle(firewall, tmp_path)
        flood.resume()
        assert flood.came() == 0
        assert "chain boot" not in firewall.nft("list table inet hafw")
        assert firewall.count("early") > 0, "it is the gate now that drops them"


RULES_OF_DEBIAN = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain forward {
        type filter hook forward priority filter;
    }
}
"""
RULES_THAT_DO_NOT_FLUSH = "table inet filter\ndelete table inet filter\ntable inet filter\n"


def guard(firewall: Firewall, verb: str, rules: str, tmp_path: Path) -> None:
    """What the drop-in starts does its work, and says nothing."""
    done = run_guard(firewall, verb, rules, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def run_guard(firewall: Firewall, verb: str, rules: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """With its two files at other places."""
    (tmp_path / "nftables.conf").write_text(rules)
    text = (ROOT / "systemd" / "nftables-guard").read_text()
    for place, here in (
        ("/usr/share/hafw-agent/boot.nft", BOOT),
        ("/etc/nftables.conf", tmp_path / "nftables.conf"),
    ):
        assert place in text
        text = text.replace(place, str(here))
    argv = ["/bin/sh", "-c", text, "guard", verb]
    with firewall.node.entered():
        return subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.parametrize("rules", [RuleSet.PRIMARY, RuleSet.BACKUP])
def test_a_restart_of_nftables_lets_nothing_through(
    firewall: Firewall, tmp_path: Path, rules: RuleSet
) -> None:
    firewall.rules.load(rules)
    flood = Flood(firewall)
    with flood.running():
        flood.resume()
        for verb in ("flush", "load", "load", "flush"):
            guard(firewall, verb, RULES_OF_DEBIAN, tmp_path)
            flood.came()
            flood.resume()
            assert flood.came() == 0, verb
        assert "digest" not in firewall.nft("list table inet hafw")
        guard(firewall, "load", RULES_OF_DEBIAN, tmp_path)
        assert "table inet filter" in firewall.nft("list tables")


def test_not_one_packet_slips_through_a_restart_of_nftables(firewall: Firewall, tmp_path: Path) -> None:
    """The way from one table to another takes the kernel microseconds: as many packets as can be sent."""
    flood = Flood(firewall, FORBIDDEN_PORT, pause_s=0)
    firewall.rules.load(RuleSet.PRIMARY)
    with flood.running():
        for _ in range(10):
            guard(firewall, "flush", RULES_OF_DEBIAN, tmp_path)
            guard(firewall, "load", RULES_OF_DEBIAN, tmp_path)
            firewall.rules.load(RuleSet.PRIMARY)
        flood.resume()
        assert flood.came() == 0


def test_rules_of_the_administrator_that_flush_nothing_leave_ours(
    firewall: Firewall, tmp_path: Path
) -> None:
    firewall.rules.load(RuleSet.PRIMARY)
    guard(firewall, "load", RULES_THAT_DO_NOT_FLUSH, tmp_path)
    assert firewall.rules.verify(RuleSet.PRIMARY).drift is None
    assert "table inet filter" in firewall.nft("list tables")


def test_rules_that_nft_refuses_leave_all_as_it_is(firewall: Firewall, tmp_path: Path) -> None:
    """Stock nftables.service would do so as well; without a word of it, ours could be taken for loaded."""
    firewall.rules.load(RuleSet.PRIMARY)
    done = run_guard(firewall, "load", "flush ruleset\nno rules\n", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("nftables-guard: load was refused, and the rules stay as they are: ")
    assert "syntax error" in done.stderr
    assert firewall.rules.verify(RuleSet.PRIMARY).drift is None


def test_a_translated_connection_is_not_reset_while_nftables_restarts(
    firewall: Firewall, tmp_path: Path
) -> None:
    """Without a NAT chain the kernel takes replies to the virtual address for its own, and resets."""
    firewall.rules.load(RuleSet.PRIMARY)
    with contextlib.ExitStack() as ends:
        with firewall.server.entered():
            listener = ends.enter_context(socket.create_server(("192.168.0.10", 443)))
        with firewall.client.entered():
            near = ends.enter_context(socket.create_connection(("192.168.0.10", 443), LIMIT_S))
        far = ends.enter_context(listener.accept()[0])
        guard(firewall, "flush", RULES_OF_DEBIAN, tmp_path)
        far.send(b"to a client behind a closed firewall")
        guard(firewall, "load", RULES_OF_DEBIAN, tmp_path)
        firewall.rules.load(RuleSet.PRIMARY)
        assert near.recv(100) == b"to a client behind a closed firewall", "TCP sends it again"
        near.send(b"and back")
        assert far.recv(100) == b"and back"


def test_it_never_takes_the_place_of_a_table_that_is_there(firewall: Firewall) -> None:
    firewall.rules.load(RuleSet.PRIMARY)
    flood = Flood(firewall)
    with flood.running():
        until(lambda: flood.came() > 0, LIMIT_S, "the open gate lets nothing through")
        done = load_boot_policy(firewall)
        assert done.returncode != 0
        assert "File exists" in done.stderr
        flood.came()
        until(lambda: flood.came() > 0, LIMIT_S, "it closed the gate of a primary")
    assert firewall.rules.verify(RuleSet.PRIMARY).drift is None


def test_the_unit_says_by_itself_that_it_is_not_needed(firewall: Firewall) -> None:
    """Its condition: a restart of the unit on a node at work does nothing, and is no failure."""
    unit = (ROOT / "systemd" / "hafw-boot.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecCondition=/bin/sh -c '")]
    command = line.partition("'")[2].rstrip("'")

    def wanted() -> int:
        with firewall.node.entered():
            return subprocess.run(["/bin/sh", "-c", command], timeout=LIMIT_S, check=False).returncode

    assert wanted() == 0
    assert load_boot_policy(firewall).returncode == 0
    assert wanted() == 1
