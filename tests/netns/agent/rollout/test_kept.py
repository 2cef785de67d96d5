# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rules have gathered outlives the agent, and a slow disk holds up neither it nor a takeover."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agent.config import loader
from tests.checkout import ROOT
from tests.netns.machine import Machine, start_agent, start_machine, tell_agent
from tests.netns.pair_checks import rules_digest, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
]

PATIENCE_S = 60
PAIR_FILE = "/etc/hafw/hafw.yaml"
A = (ROOT / "examples" / "pair.yaml").read_text() + "sets: {blocked: {dynamic: true}}\n"
B = A.replace("allow: [", "allow: [smtp, ")
C = A.replace("allow: [", "allow: [imaps, ")
RULES_A, RULES_B, RULES_C = (rules_digest(loader.parse(text)) for text in (A, B, C))
VIPS = (("192.168.0.100/24", "eth0"), ("192.168.2.100/24", "eth1"))
KNOCKS = 7
KNOCK = f"""
import socket
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"far1")
sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for _ in range({KNOCKS}):
    sender.sendto(b"knock", ("255.255.255.255", 9))
"""
# every fsync waits until somebody writes to the pipe, or has removed it
SLOW_DISK = """
import os, pathlib, sys
fsync = os.fsync
def wait_and_fsync(descriptor):
    pipe = pathlib.Path("/run/disk")
    if pipe.exists():
        pipe.read_bytes()
    fsync(descriptor)
os.fsync = wait_and_fsync
from agent.cli.main import main
sys.exit(main(["agent"]))
"""
# what the agent takes for keepalived: its name, and its number in its place
KEEPALIVED = """
cp /bin/sleep /run/keepalived
echo 'echo $$ >/run/vrrp.pid; exec /run/keepalived 3600' >/run/start
setsid sh /run/start >/dev/null 2>&1 &
until [ "$(cat /proc/$(cat /run/vrrp.pid)/comm)" = keepalived ]; do sleep 0.1; done 2>/dev/null
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with start_machine() as started:
        started.write(PAIR_FILE, A)
        for name in ("eth0", "eth1"):
            started.must("ip", "link", "add", name, "type", "veth", "peer", "name", f"far{name[-1]}")
            started.must("ip", "link", "set", name, "up")
        started.must("ip", "address", "add", "192.0.2.1/24", "dev", "far1")
        started.must("ip", "link", "set", "far1", "up")
        yield started


def wait_started(machine: Machine, times: int) -> None:
    """The agent has started so often, and has loaded its rules."""

    def count() -> int:
        return sum(
            one["event"] == "rules" and one["message"].startswith("started:") for one in machine.records()
        )

    until(lambda: count() == times, PATIENCE_S, lambda: f"not started {times} times: {machine.records()}")


def wait_rules(machine: Machine, rules: str) -> None:
    until(lambda: machine.digest() == rules, PATIENCE_S, f"{rules} do not come into force")


def gathered(machine: Machine) -> tuple[int, bool]:
    """How many packets a closed gate has dropped, and whether the dynamic set has its element."""
    count = re.search(r"packets (\d+)", machine.must("nft", "list", "counter", "inet", "hafw-gate", "early"))
    assert count is not None
    return int(count[1]), "198.51.100.7" in machine.must("nft", "list", "set", "inet", "hafw", "blocked/4")


def wait_remembered(machine: Machine, rules: str) -> None:
    path = machine.root / "run/hafw/rules.json"
    until(
        lambda: path.exists() and json.loads(path.read_text())["rules"] == rules,
        PATIENCE_S,
        "the agent does not write down what it has loaded",
    )


def kill_agent(machine: Machine, running: "subprocess.Popen[bytes]") -> None:
    tell_agent(machine, signal.SIGKILL)
    running.wait(PATIENCE_S)


def test_counts_and_dynamic_elements_outlive_the_agent(machine: Machine) -> None:
    with start_agent(machine) as running:
        wait_started(machine, 1)
        machine.must(sys.executable, "-c", KNOCK)
        machine.must("nft", "add element inet hafw blocked/4 { 198.51.100.7 }")
        found = gathered(machine)
        assert found[0] >= KNOCKS
        assert found[1]
        machine.write(PAIR_FILE, B)
        tell_agent(machine, signal.SIGHUP)
        wait_rules(machine, RULES_B)
        assert gathered(machine) == found, "lost by the reload"
        wait_remembered(machine, RULES_B)
        kill_agent(machine, running)
    with start_agent(machine):
        wait_started(machine, 2)
        assert gathered(machine) == found, "lost by kill -9 and a start"
    machine.write(PAIR_FILE, A)
    with start_agent(machine):
        wait_started(machine, 3)
        assert machine.digest() == RULES_A
        assert gathered(machine) == found, "lost by a start with another pair file"
    # an external change that was made while no agent looked is not kept
    machine.must("nft", "insert rule inet hafw input tcp dport 23 accept")
    with start_agent(machine):
        wait_started(machine, 4)
        assert gathered(machine) == (0, False)
        assert "dport 23" not in machine.must("nft", "list", "chain", "inet", "hafw", "input")


def is_open(machine: Machine) -> bool:
    return machine.run("nft", "list", "chain", "inet", "hafw-gate", "gate").returncode != 0


def generations(machine: Machine) -> list[str]:
    """The pair files of all that are kept, oldest first."""
    kept = sorted((machine.root / "var/lib/hafw/generations").glob("*.json"))
    return [json.loads(path.read_text())["files"][0][1] for path in kept]


def test_a_slow_disk_delays_no_takeover(machine: Machine) -> None:
    """At the start and in a reload; what waits for the disk gets there, the newest last."""
    os.mkfifo(machine.root / "run/disk")
    with start_agent(machine, ("-c", SLOW_DISK)):
        wait_rules(machine, RULES_A)
        machine.must("sh", "-c", KEEPALIVED)
        for vip, interface in VIPS:
            machine.must("ip", "address", "add", vip, "dev", interface)
        until(lambda: is_open(machine), PATIENCE_S, "the start holds up the takeover")
        assert generations(machine) == [], "the disk is not slow"
        for text in (B, C):
            machine.write(PAIR_FILE, text)
            tell_agent(machine, signal.SIGHUP)
        for vip, interface in VIPS:
            machine.must("ip", "address", "delete", vip, "dev", interface)
        until(lambda: not is_open(machine), PATIENCE_S, "the reload holds up the way back")
        assert generations(machine) == []
        pipe = machine.root / "run/disk"
        with pipe.open("w"):
            pipe.unlink()
        wait_rules(machine, RULES_C)
        until(lambda: generations(machine)[-1:] == [C], PATIENCE_S, "the newest is not kept")
        assert generations(machine)[0] == A
