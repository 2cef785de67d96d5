# SPDX-License-Identifier: GPL-2.0-or-later
"""A lab whose nodes are all machines with Debian 13: boot, verbs, power cut, return, and its snapshot."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from threading import Timer

import pytest

from hafw_lab.client import registry
from hafw_lab.client.lab import Lab
from hafw_lab.model.topology import DEFAULT
from tests.checkout import ROOT
from tests.vm.guests import PATIENCE_S, SERVER, Say, living_connections, longest_stall_ms, shell
from tests.vm.story import check_boot, check_power_cut

pytestmark = pytest.mark.vm
NAME = "vm-all"
NODES = tuple(node.name for node in DEFAULT.nodes)


def hafw_lab(*arguments: str) -> str:
    """What it prints; fails when it does."""
    verb, *rest = arguments
    argv = [sys.executable, "-P", "-m", "hafw_lab", verb, "--name", NAME, *rest]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools"}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def machines() -> Iterator[Lab]:
    """As `hafw-lab up --vm` leaves them running. By its own process, whose child the lab is not ours."""
    forget_snapshot()  # of a run that was killed
    hafw_lab("up", "--vm", "--release", "trixie")
    try:
        lab = registry.attach(NAME)
        yield lab
        lab.close()
    finally:
        hafw_lab("down")
        forget_snapshot()


def forget_snapshot() -> None:
    if NAME in hafw_lab("snapshot", "list"):
        hafw_lab("snapshot", "rm", NAME)


def test_every_node_is_a_machine(machines: Lab, say: Say) -> None:
    check_boot(machines, "fw-1")
    check_verbs()
    hafw_lab("snapshot", "save", NAME)
    with living_connections(machines, "fw-2") as traffic:
        check_power_cut(machines, traffic, before_cut=lambda _: None)
        say(f"power cut, four machines: longest stall {longest_stall_ms(traffic):.0f} ms")
    hafw_lab("down")
    hafw_lab("snapshot", "load", NAME)
    check_loaded()


def check_loaded() -> None:
    """As it was kept: before the power cut, but for the time of day."""
    lab = registry.attach(NAME)
    assert lab.wait_settled(PATIENCE_S) == "fw-1"
    assert "1 received" in hafw_lab("exec", "client", "--", "ping", "-c1", "-W10", SERVER)
    for name in NODES:
        assert abs(int(shell(lab, name, "date +%s")) - time.time()) < PATIENCE_S
    hafw_lab("fail", "client", "--how", "shutdown")
    assert not lab.status().node("client").alive
    lab.close()


def check_verbs() -> None:
    lines = hafw_lab("status").splitlines()
    assert "primary: fw-1" in lines[0]
    for name in NODES:
        assert any(line.split()[0] == name and "on, trixie on" in line for line in lines[1:]), lines
    assert "1 received" in hafw_lab("exec", "client", "--", "ping", "-c1", "-W10", SERVER)
    assert "Entering MASTER STATE" in hafw_lab("logs", "fw-1", "keepalived")
    check_console("omarine")
    for node, how, shown in (("client", "link:eth0", "link eth0 is down"), ("omarine", "pause", "paused")):
        hafw_lab("fail", node, "--how", how)
        assert shown in hafw_lab("status")
        hafw_lab("heal", node)
        assert shown not in hafw_lab("status")


def check_console(name: str) -> None:
    argv = [sys.executable, "-P", "-m", "hafw_lab", "console", "--name", NAME, name]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools"}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=environment, stdin=pipe, stdout=pipe) as console:
        assert console.stdin is not None
        assert console.stdout is not None
        limit = Timer(PATIENCE_S, console.kill)
        limit.start()
        console.stdin.write(b"\runame -n | tr a-z A-Z\r")
        console.stdin.flush()
        seen = b""
        while name.upper().encode() not in seen:
            data = os.read(console.stdout.fileno(), 4096)
            assert data, seen
            seen += data
        console.stdin.write(b"\x1d")
        console.stdin.flush()
        assert console.wait(PATIENCE_S) == 0
        limit.cancel()
