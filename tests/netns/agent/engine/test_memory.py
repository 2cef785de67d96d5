# SPDX-License-Identifier: GPL-2.0-or-later
"""What a large policy leaves of the memory that it took. A real agent and a real nft."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.netns.machine import Machine, start_agent, start_machine, tell_agent
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

PAIR_FILE = "/etc/hafw/hafw.yaml"
SMALL = (ROOT / "examples" / "pair.yaml").read_text()
RULES = 12_000
MAX_MIB = 64
PATIENCE_S = 240.0


def large() -> str:
    lines = "".join(
        f"  - {{from: client, to: server, source: 10.{n >> 8}.{n & 255}.0/24, allow: [{{tcp: {n}}}]}}\n"
        for n in range(1, RULES + 1)
    )
    return SMALL.replace("policy:\n", "policy:\n" + lines)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with start_machine() as started:
        started.write(PAIR_FILE, SMALL)
        yield started


def resident_mib(machine: Machine) -> float:
    pid = machine.read("/run/hafw/agent.lock").strip()
    lines = Path(machine.root, "proc", pid, "status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
    return int(found) / 1024


def use(machine: Machine, text: str) -> None:
    before = machine.digest()
    machine.write(PAIR_FILE, text)
    tell_agent(machine, signal.SIGHUP)
    until(lambda: machine.digest() not in (before, None), PATIENCE_S, "the policy does not come into force")


@pytest.mark.parametrize("first", ["small", "large"])
def test_memory_goes_back_when_a_large_policy_is_gone(machine: Machine, first: str) -> None:
    if first == "large":
        machine.write(PAIR_FILE, large())
    with start_agent(machine):
        until(lambda: machine.digest() is not None, PATIENCE_S, "the agent loads nothing")
        if first == "small":
            use(machine, large())
        assert machine.rules_json("show")
        use(machine, SMALL)
        until(
            lambda: resident_mib(machine) < MAX_MIB,
            PATIENCE_S,
            lambda: f"{resident_mib(machine):.0f} MiB are kept",
        )
