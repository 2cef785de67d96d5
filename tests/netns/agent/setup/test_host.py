# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw setup` and `hafw check` on a host with interfaces and routes of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.channel.local import MAX_KEY_FILE
from agent.paths import Paths
from tests.checkout import ROOT
from tests.netns.machine import Machine, start_machine

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

KEY = str(Paths().pair_key)
PAIR_FILE = str(ROOT / "examples" / "pair.yaml")
CHECK = ("check", PAIR_FILE)
SETUP = ("setup", "--file", PAIR_FILE, "--dry-run")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """fw-1 without eth1, with an interface for management."""
    with start_machine() as made:
        for name, address in (
            ("eth0", "192.168.0.1/24"),
            ("eth2", "192.168.1.1/24"),
            ("mgmt", "10.1.1.5/24"),
        ):
            made.must("ip", "link", "add", name, "type", "veth", "peer", "name", f"to-{name}")
            made.must("ip", "link", "set", f"to-{name}", "up")
            made.must("ip", "address", "add", address, "dev", name)
            made.must("ip", "link", "set", name, "up")
        made.must("ip", "route", "add", "default", "via", "192.168.0.254")
        made.must(
            "ip", "-6", "route", "add", "2001:db8:9::/48", "via", "fe80::9", "dev", "eth0", "table", "7"
        )
        yield made


def hafw(machine: Machine, *words: str, prefix: tuple[str, ...] = ()) -> str:
    done = machine.run(*prefix, sys.executable, "-P", "-m", "agent", *words)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("words", [CHECK, SETUP], ids=["check", "setup"])
def test_what_the_host_has_otherwise_is_said(machine: Machine, words: tuple[str, ...]) -> None:
    said = hafw(machine, *words)
    assert "eth1 of the pair file is not on this host" in said
    assert "mgmt (10.1.1.5/24) is in no zone of the pair file: ssh arriving there will be dropped" in said
    assert "YOUR" not in said
    session = ("env", "SSH_CONNECTION=192.0.2.7 5555 10.1.1.5 22")
    assert "YOUR OWN SSH SESSION COMES IN OVER mgmt" in hafw(machine, *words, prefix=session)
    # as sudo does it
    taken = ("sh", "-c", 'env -u SSH_CONNECTION "$@"; exit $?', "sh")
    assert "YOUR OWN SSH SESSION COMES IN OVER mgmt" in hafw(machine, *words, prefix=(*session, *taken))


def test_a_host_that_is_no_node_is_not_judged(machine: Machine) -> None:
    machine.must("hostname", "elsewhere")
    assert "warning" not in hafw(machine, *CHECK)


def test_the_key_is_made_once_and_carried_as_it_says(machine: Machine) -> None:
    wanted = ("setup", "--file", PAIR_FILE)
    assert f"{KEY} is to be made" in hafw(machine, *wanted, "--dry-run")
    assert not Path(machine.root, KEY.lstrip("/")).exists()
    said = hafw(machine, *wanted, "--yes")
    assert f"made {KEY}" in said
    assert f"\n    ssh root@fw-1 cat {KEY} | hafw pair join -\n" in said
    made = machine.read(KEY)
    assert Path(machine.root, KEY.lstrip("/")).stat().st_mode & 0o7777 == 0o600
    again = hafw(machine, *wanted, "--yes")
    assert KEY not in again
    assert machine.read(KEY) == made
    join = (sys.executable, "-P", "-m", "agent", "pair", "join", "-")
    with start_machine() as other:
        assert f"wrote {KEY}" in other.run(*join, stdin=made).stdout
        assert other.read(KEY) == made
        assert "is this key already" in other.run(*join, stdin=made).stdout
        refused = other.run(*join, stdin=f"{made}{' ' * MAX_KEY_FILE}")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "it is too long" in refused.stderr
        assert other.read(KEY) == made


def test_the_second_node_makes_no_key_of_its_own(machine: Machine) -> None:
    """As a newcomer who begins with either node, and does what is printed."""
    wanted = ("setup", "--file", PAIR_FILE, "--yes")
    join = f"\n    ssh root@fw-1 cat {KEY} | hafw pair join -\n"
    with start_machine() as second:
        second.must("hostname", "fw-2")
        for words in ((*wanted[:-1], "--dry-run"), wanted):
            said = hafw(second, *words)
            assert join in said
            assert "`hafw setup` makes it on fw-1" in said
        assert not Path(second.root, KEY.lstrip("/")).exists()
        assert join in hafw(second, *wanted), "it was not done yet"
        assert join in hafw(machine, *wanted)
        argv = (sys.executable, "-P", "-m", "agent", "pair", "join", "-")
        assert second.run(*argv, stdin=machine.read(KEY)).returncode == 0
        assert "pair join" not in hafw(second, *wanted)
        assert second.read(KEY) == machine.read(KEY)


def test_routes_of_the_kernel_are_named(machine: Machine) -> None:
    said = hafw(machine, *SETUP)
    assert "the kernel has now: default via 192.168.0.254 dev eth0" in said
    assert "[Route]\n    Destination=2001:db8:9::/48\n    Gateway=fe80::9\n    Table=7" in said
    assert "192.168.0.0/24 dev" not in said, "the kernel's own come with the address"
