"""A real firewalld beside our rules, where it is installed. `./run test` does not install it: it would close
the network of the machine that the tests run on."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.netns.machine import Machine, start_agent, start_machine
from tests.netns.pair_checks import until
from tests.netns.test_rules_drift import PAIR, PAIR_FILE, PATIENCE_S, theirs, wait_intact

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
    pytest.mark.skipif(
        shutil.which("firewalld") is None, reason="apt-get install firewalld, if you want it"
    ),
]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with ExitStack() as programs, start_machine() as started:
        started.write(PAIR_FILE, PAIR)
        started.must("mkdir", "-p", "/run/dbus", "/var/log/firewalld")
        bus = started.root / "run" / "dbus" / "system_bus_socket"
        start(programs, started, "dbus-daemon", "--system", "--nofork", "--nopidfile")
        until(bus.is_socket, PATIENCE_S, "no bus")
        start(programs, started, "firewalld", "--nofork", "--nopid")
        until(lambda: started.run("firewall-cmd", "--state").returncode == 0, PATIENCE_S, "no firewalld")
        yield started


def start(programs: ExitStack, machine: Machine, *argv: str) -> None:
    """Ends with its machine."""
    programs.enter_context(subprocess.Popen(machine.argv(*argv), stderr=subprocess.DEVNULL))


def test_neither_touches_the_others_rules(machine: Machine) -> None:
    before = theirs(machine)
    assert [body["name"] for kind, body in before if kind == "table"] == ["firewalld"]
    with start_agent(machine):
        wait_intact(machine)
        assert theirs(machine) == before
        since, ours = time.monotonic_ns(), machine.must("nft", "list", "table", "inet", "hafw")
        machine.must("firewall-cmd", "--reload")
        machine.must("firewall-cmd", "--add-service=http")
        assert machine.must("nft", "list", "table", "inet", "hafw") == ours
        assert not [one for one in machine.records() if one["event"] == "alarm" and one["mono_ns"] > since]

        before = theirs(machine)
        machine.write(PAIR_FILE, PAIR.replace("allow: [", "allow: [smtp, "))
        machine.rules("apply")
        assert theirs(machine) == before
    machine.must("nft", "delete", "table", "inet", "hafw")
    assert theirs(machine) == before
    assert "http" in machine.must("firewall-cmd", "--list-services").split()
