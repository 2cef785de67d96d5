# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's unit of conntrackd with our drop-in, under a real systemd: it is back whatever ended it."""

import os
import re
from collections.abc import Iterator

import pytest

from agent.config import loader
from agent.paths import Paths
from agent.render import conntrackd
from tests.checkout import ROOT
from tests.netns.booted import PATIENCE_S, Booted, start_booted
from tests.netns.pair_checks import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.getuid() != 0, reason="a systemd of its own needs root"),
]

SYSTEMD = ROOT / "systemd"
DROP_IN = SYSTEMD / "conntrackd.service.d" / "hafw.conf"
PAIR = loader.load(ROOT / "examples" / "pair.yaml")
PATHS = Paths()
UNIT = "conntrackd.service"


@pytest.fixture
def booted() -> Iterator[Booted]:
    with start_booted() as made:
        link = PAIR.sync_interfaces[0]
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "link", "add", link.name, "type", "veth", "peer", "name", "other")
        for name in (link.name, "other"):
            made.run("ip", "link", "set", name, "up")
        made.run("ip", "address", "add", str(link.own("fw-1")[0]), "dev", link.name)
        made.write(PATHS.conntrackd_config, conntrackd.render(PAIR, "fw-1", PATHS))
        made.copy(DROP_IN, f"/etc/systemd/system/{UNIT}.d/hafw.conf")
        made.copy(SYSTEMD / "conntrackd-unlock", "/usr/libexec/hafw/conntrackd-unlock")
        made.run("systemctl", "daemon-reload")
        yield made


def until_active(booted: Booted, *, other_than: str = "") -> str:
    """Its process, which another one than this must be."""

    def is_active() -> bool:
        state, process = (booted.show(UNIT, name) for name in ("ActiveState", "MainPID"))
        return state == "active" and process != other_than

    until(is_active, PATIENCE_S, lambda: booted.run("systemctl", "status", UNIT, status=None))
    return booted.show(UNIT, "MainPID")


def test_one_that_was_killed_comes_back(booted: Booted) -> None:
    booted.run("systemctl", "start", UNIT)
    first = until_active(booted)
    booted.run("kill", "-KILL", first)
    until_active(booted, other_than=first)
    assert "external inject:" in booted.run("conntrackd", "-s")


def test_a_lock_elsewhere_is_found(booted: Booted) -> None:
    """conntrackd.conf may be made by hand."""
    text = conntrackd.render(PAIR, "fw-1", PATHS)
    lock = "/run/other.lock"
    ours = f"LockFile {PATHS.conntrackd_lock}"
    text = text.replace(ours, f"# LockFile /run/no.lock\n LockFile {lock} # x")
    booted.write(PATHS.conntrackd_config, text)
    booted.run("systemctl", "start", UNIT)
    first = until_active(booted)
    assert booted.path(lock).exists()
    booted.run("kill", "-KILL", first)
    until_active(booted, other_than=first)


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_the_lock_of_one_that_lives_stays(booted: Booted, state: str) -> None:
    """Started by hand, beside the unit: two of them would take each other's socket."""
    # what it comes after has been started then: on Debian 13 also the mount of /run/lock
    booted.run("systemctl", "start", UNIT)
    booted.run("systemctl", "stop", UNIT)
    own = ("conntrackd", "-d", "-C", str(PATHS.conntrackd_config))
    booted.run(*own)
    process = booted.run("pidof", "conntrackd").strip()
    lock = booted.path("/run/lock/conntrackd.lock")  # where /var/lock leads, from outside
    before = lock.stat()
    if state == "stopped":
        booted.run("kill", "-STOP", process)
    booted.run("systemctl", "start", "--no-block", UNIT)
    until(lambda: int(booted.show(UNIT, "NRestarts")) >= 2, PATIENCE_S, "the unit does not try")
    after = lock.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    booted.run("kill", "-KILL", process)
    until_active(booted)


def test_one_that_hangs_is_ended_and_comes_back(booted: Booted) -> None:
    # everything of the drop-in but its patience
    shorter = re.sub(r"^WatchdogSec=.*$", "WatchdogSec=2s", DROP_IN.read_text(), flags=re.MULTILINE)
    booted.write(f"/etc/systemd/system/{UNIT}.d/hafw.conf", shorter)
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "start", UNIT)
    first = until_active(booted)
    booted.run("kill", "-STOP", first)
    until_active(booted, other_than=first)


def test_the_watchdog_bears_a_large_table(booted: Booted) -> None:
    """conntrackd reports at half the interval, and not while it reads or commits 1,000,000 states: 20 s."""
    booted.run("systemctl", "start", UNIT)
    shown = re.fullmatch(r"(?:(\d+)min)? ?(?:(\d+)s)?", booted.show(UNIT, "WatchdogUSec"))
    assert shown is not None
    seconds = 60 * int(shown[1] or 0) + int(shown[2] or 0)
    assert seconds / 2 >= 2 * 20
