# SPDX-License-Identifier: GPL-2.0-or-later
"""A real firewalld beside our rules.

It is not installed: it would close the network of the machine that the tests run on. What is missing of it
here is laid over /usr and /etc of the machine that the test makes.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.rules.objects import TABLES
from tests.netns.agent.rules.test_drift import PAIR, PAIR_FILE, PATIENCE_S, theirs, wait_intact
from tests.netns.machine import Machine, start_agent, start_machine
from tests.netns.pair_checks import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
]

CACHE = Path(os.environ["HAFW_CACHE"])
FETCH = ("apt-get", "-qq", "-y", "--download-only", "--no-install-recommends", "-o", "Debug::NoLocking=true")
FETCH_S = 300


@pytest.fixture(scope="module")
def files() -> Path | None:
    """The files of the packages that firewalld would bring along. None where it is installed."""
    if shutil.which("firewalld") is not None:
        return None
    archives, files = CACHE / "firewalld" / "archives", CACHE / "firewalld" / "files"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*FETCH, "-o", f"Dir::Cache::archives={archives}", "install", "firewalld"],
        check=True,
        timeout=FETCH_S,
    )
    for package in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, files], check=True, timeout=FETCH_S)
    # what the packages' own scripts would do
    policy = files / "usr/share/polkit-1/actions/org.fedoraproject.FirewallD1.policy"
    policy.unlink(missing_ok=True)
    policy.symlink_to("org.fedoraproject.FirewallD1.server.policy.choice")
    return files


@pytest.fixture
def machine(files: Path | None) -> Iterator[Machine]:
    with ExitStack() as programs, start_machine() as started:
        started.write(PAIR_FILE, PAIR)
        if files is not None:
            started.must("mount", "-t", "overlay", "-o", f"lowerdir={files}/usr:/usr", "none", "/usr")
            started.must("cp", "-a", f"{files}/etc/.", "/etc")
            started.must("sh", "-c", "getent passwd polkitd || useradd --system polkitd")
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


def listed(machine: Machine) -> list[str]:
    return [machine.must("nft", "list", "table", "inet", table) for table in TABLES]


def alarms_of_rules(machine: Machine, since: int) -> list[object]:
    """A machine that is no pair has others, at its start."""
    found = machine.records()
    return [one for one in found if one.get("condition") == "rules" and one["mono_ns"] > since]


def test_neither_touches_the_others_rules(machine: Machine) -> None:
    before = theirs(machine)
    assert [body["name"] for kind, body in before if kind == "table"] == ["firewalld"]
    with start_agent(machine):
        wait_intact(machine)
        assert theirs(machine) == before
        since, ours = time.monotonic_ns(), listed(machine)
        machine.must("firewall-cmd", "--reload")
        machine.must("firewall-cmd", "--add-service=http")
        assert listed(machine) == ours
        assert not alarms_of_rules(machine, since)

        before = theirs(machine)
        machine.write(PAIR_FILE, PAIR.replace("allow: [", "allow: [smtp, "))
        machine.rules("apply")
        assert theirs(machine) == before
    for table in TABLES:
        machine.must("nft", "delete", "table", "inet", table)
    assert theirs(machine) == before
    assert "http" in machine.must("firewall-cmd", "--list-services").split()
