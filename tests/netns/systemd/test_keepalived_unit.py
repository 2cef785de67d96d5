# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's unit of keepalived with our drop-in, under a real systemd: back, and alone, after any end."""

import os
from collections.abc import Iterator

import pytest

from agent.paths import Paths
from hafw_lab.compose.dbus_policy import compose_bus_config
from tests.checkout import ROOT
from tests.netns.booted import PATIENCE_S, Booted, start_booted
from tests.netns.pair_checks import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.getuid() != 0, reason="a systemd of its own needs root"),
]

DROP_IN = ROOT / "systemd" / "keepalived.service.d" / "hafw.conf"
PATHS = Paths()
UNIT = "keepalived.service"
BUS_CONFIG = "/run/bus.conf"
# without a bus it ends at once, and with one it takes two seconds
CONFIG = """
global_defs {
    enable_dbus
}
vrrp_instance VI_1 {
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority 100
    advert_int 0.1
    virtual_ipaddress {
        192.0.2.10/24
    }
}
"""
TOO_OFTEN = 7
"""More than systemd's own limit, five within ten seconds."""


@pytest.fixture
def booted() -> Iterator[Booted]:
    with start_booted() as made:
        made.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        for name in ("lo", "eth0", "other"):
            made.run("ip", "link", "set", name, "up")
        made.run("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
        allowed = ('own="*"', 'send_type="method_call"')
        made.write(PATHS.system_bus, "")
        made.path(PATHS.system_bus).unlink()
        made.write(BUS_CONFIG, compose_bus_config(str(PATHS.system_bus), allowed))
        made.run("dbus-daemon", f"--config-file={BUS_CONFIG}", "--fork", "--nopidfile")
        made.write(PATHS.keepalived_config, CONFIG)
        # as keepalived's own unit has it, and a later Debian may
        made.write(f"/etc/systemd/system/{UNIT}.d/earlier.conf", "[Service]\nKillMode=process\n")
        made.copy(DROP_IN, f"/etc/systemd/system/{UNIT}.d/hafw.conf")
        made.run("systemctl", "daemon-reload")
        yield made


def processes(booted: Booted) -> list[str]:
    return booted.run("pidof", "keepalived", status=None).split()


def until_whole(booted: Booted, *, without: tuple[str, ...] = ()) -> tuple[str, str]:
    """Its main process and the VRRP process, none of which are among those; and no third one."""

    def is_whole() -> bool:
        main = booted.show(UNIT, "MainPID")
        children = booted.run("pgrep", "-P", main, status=None).split() if main != "0" else []
        there = processes(booted)
        found = (main, *children)
        return len(found) == 2 and set(found) == set(there) and set(there).isdisjoint(without)

    until(is_whole, PATIENCE_S, lambda: booted.run("systemctl", "status", UNIT, status=None))
    main = booted.show(UNIT, "MainPID")
    return main, booted.run("pgrep", "-P", main).strip()


def until_serving(booted: Booted) -> None:
    until(lambda: "192.0.2.10" in booted.run("ip", "address"), PATIENCE_S, "it takes no address")


@pytest.mark.parametrize("which", ["main", "both", "main, of a stopped one"])
def test_one_that_was_killed_comes_back_alone(booted: Booted, which: str) -> None:
    booted.run("systemctl", "start", UNIT)
    main, vrrp = first = until_whole(booted)
    until_serving(booted)
    if which == "main, of a stopped one":
        booted.run("kill", "-STOP", vrrp)
    booted.run("kill", "-KILL", *(first if which == "both" else [main]))
    _, second = until_whole(booted, without=first)
    until_serving(booted)
    assert booted.show(UNIT, "NRestarts") == "1", "the next one found the old one, and ended"
    assert booted.run("cat", str(PATHS.vrrp_pid)).strip() == second


def test_no_number_of_failures_is_too_many(booted: Booted) -> None:
    booted.write(PATHS.keepalived_config, CONFIG.replace("eth0", "not-there"))
    booted.run("systemctl", "start", "--no-block", UNIT)
    until(lambda: int(booted.show(UNIT, "NRestarts")) >= TOO_OFTEN, PATIENCE_S, "the unit does not try")
    booted.write(PATHS.keepalived_config, CONFIG)
    until_whole(booted)
