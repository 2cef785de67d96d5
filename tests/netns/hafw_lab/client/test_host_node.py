# SPDX-License-Identifier: GPL-2.0-or-later
"""This machine as a node of a lab, played by a namespace: what it gets, what it refuses, what is left."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from hafw_lab.client.lab import AgentKind, Fault, Lab, LabOptions
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import run_failover
from hafw_lab.measure.result import Setup
from hafw_lab.model.topology import DEFAULT
from hafw_lab.plan.host_link import with_host
from hafw_lab.report.topology import to_text
from hafw_lab.verbs.graph import live_nodes
from hafw_lab.verbs.main import describe
from tests.netns.namespaces import Namespace, start_namespaces

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can plug this machine in"),
]
OPTIONS = LabOptions(agent=AgentKind.NONE, host="omarine")
LINK, ADDRESS = "hafw-br0", "192.168.0.3"
PING = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "5")


@contextmanager
def start_lab(host: Namespace, options: LabOptions = OPTIONS) -> Iterator[Lab]:
    """Only the start is inside: a lab is used from anywhere."""
    with ExitStack() as stack:
        with host.entered():
            lab = stack.enter_context(Lab.start(options))
        yield lab


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    with start_namespaces("host") as (made,):
        yield made


@pytest.fixture(scope="module")
def lab(host: Namespace) -> Iterator[Lab]:
    with start_lab(host) as started:
        yield started


def network_of(namespace: Namespace) -> str:
    return namespace.run("ip", "address") + namespace.run("ip", "route")


def test_this_machine_is_a_node(host: Namespace, lab: Lab) -> None:
    lab.node("client").run([*PING, ADDRESS])
    lab.node("omarine").run([*PING, "192.168.0.100"])
    assert ADDRESS in lab.node("omarine").run(["ip", "-brief", "address", "show", LINK]).stdout
    assert host.run("ip", "route").split() == (
        f"192.168.0.0/24 dev {LINK} proto kernel scope link src {ADDRESS}".split()
    )


def test_its_files_are_this_machines(lab: Lab) -> None:
    with open("/proc/sys/kernel/random/boot_id") as file:
        assert lab.node("omarine").read_text("/proc/sys/kernel/random/boot_id") == file.read()
    assert lab.node("omarine").run(["test", "-e", __file__]).returncode == 0
    with pytest.raises(LabError, match="omarine is this machine itself; only a node made of namespaces"):
        lab.namespaces("omarine")


def test_status_and_picture_say_what_it_is(lab: Lab) -> None:
    status = lab.status()
    assert "  omarine    this machine itself" in describe(status).splitlines()
    picture = to_text(with_host(DEFAULT, lab.host), live_nodes(status))
    assert f"omarine {LINK} {ADDRESS}/24  [this machine]" in picture


def test_its_link_can_fail(host: Namespace, lab: Lab) -> None:
    lab.fail("omarine", Fault.parse(f"link:{LINK}"))
    assert "NO-CARRIER" in host.run("ip", "link", "show", LINK)
    assert lab.status().node("omarine").links == {LINK: False}
    lab.heal("omarine")
    lab.node("client").run([*PING, ADDRESS])


@pytest.mark.parametrize("fault", ["power", "shutdown", "reset", "pause", "link:eth0", "agent"])
def test_the_rest_of_it_is_not_the_labs(lab: Lab, fault: str) -> None:
    with pytest.raises(LabError, match=r"omarine (is this machine itself|has no link 'eth0')"):
        lab.fail("omarine", Fault.parse(fault))
    assert lab.status().node("omarine").alive


def test_nothing_is_left_when_the_supervisor_is_killed() -> None:
    with start_namespaces("host") as (host,), ExitStack() as stack:
        before = network_of(host)
        lab = stack.enter_context(start_lab(host))
        with host.entered():
            argv = ["timeout", "60", "ip", "-oneline", "monitor", "link"]
            monitor = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        stack.callback(monitor.terminate)
        os.kill(lab.supervisor_pid, signal.SIGKILL)
        assert monitor.stdout is not None
        assert any(line.startswith("Deleted") and LINK in line for line in monitor.stdout), "after a minute"
        assert network_of(host) == before


@pytest.mark.parametrize(
    "used",
    [
        "address add 192.168.0.77/25 dev lo",
        "route add 192.168.0.0/16 dev lo",
        f"link add {LINK} type bridge",
    ],
)
def test_what_is_used_already_is_left_alone(used: str) -> None:
    with start_namespaces("host") as (host,):
        host.ip(used)
        before = network_of(host)
        with pytest.raises(LabError, match=r"this machine (cannot be omarine|has a link)"), start_lab(host):
            pytest.fail("it has plugged this machine in")
        assert network_of(host) == before


BUSY = """
import socket, sys
tcp = socket.create_server(("", 22))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 5353))
print("busy", flush=True)
sys.stdin.read()
"""


def test_a_failover_beside_the_machines_own_services() -> None:
    """And nothing is left at the end."""
    setup = Setup(host="omarine", connections=20)
    with start_namespaces("busy") as (host,):
        before = network_of(host)
        with host.entered():
            argv, pipe = ["/usr/bin/python3", "-I", "-c", BUSY], subprocess.PIPE
            busy = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)
        with busy, start_lab(host, setup.options()) as lab:
            assert busy.stdout is not None
            assert busy.stdout.readline() == "busy\n"
            result = run_failover(lab, setup, lambda _: None, calm_s=0.5, heal=False)
        assert network_of(host) == before
    assert (result.opened, result.survived, result.problems) == (20, 20, ())
