# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that a new policy forbids: counted or ended when it is in force and the lock is free."""

import re
import signal
import sys

import pytest

from tests.netns.agent.rollout.two_policies import PAIR_FILE, A, B, assert_in_force
from tests.netns.machine import Machine

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
]

BACK = r"generation 1 comes back in \d+ s unless you say: hafw rules confirm"
LESS = A.replace("http, https", "https")
"""A, whose connections to port 80 this one forbids."""


@pytest.fixture
def primary(machine: Machine) -> Machine:
    """The primary, with two connections that A allows, and LESS in /run/less.yaml."""
    loaded = f"""
from agent.config import loader
from agent.adapters.nftables import Nftables
from agent.core.roles import RuleSet
from agent.rules.compile import compile_pair
Nftables(compile_pair(loader.parse({A!r}))).flip(RuleSet.PRIMARY)
"""
    for number, network in enumerate(("192.168.0", "192.168.2")):
        machine.must("ip", "link", "add", f"eth{number}", "type", "veth", "peer", "name", f"far{number}")
        machine.must("ip", "address", "add", f"{network}.1/24", "dev", f"eth{number}")
        machine.must("ip", "link", "set", f"eth{number}", "up")
    machine.must(sys.executable, "-P", "-c", loaded)
    for port in ("22", "80"):
        ends = ("-s", "192.168.2.10", "-d", "192.168.0.10", "--sport", "4000", "--dport", port)
        machine.must("conntrack", "-I", "-p", "tcp", *ends, "--state", "ESTABLISHED", "-t", "300")
    machine.write("/run/less.yaml", LESS)
    return machine


def test_what_a_new_policy_forbids_stays_or_is_cut(primary: Machine) -> None:
    applied = primary.rules_json("apply", "/run/less.yaml")
    assert (applied["forbidden_connections"], applied["cut_connections"]) == (1, None)
    assert "dport=80" in primary.must("conntrack", "-L")
    primary.rules("rollback")
    said = primary.rules("apply", "/run/less.yaml", "--cut")
    assert "1 connection cut that these rules do not allow" in said
    left = primary.must("conntrack", "-L")
    assert "dport=22" in left
    assert "dport=80" not in left


AWAY = """
import sys
from agent.rollout import forbidden
from agent.errors import ToolError
def away():
    raise ToolError(("nft",), "nft cannot list the table")
forbidden.read_table = away
from agent.cli.main import main
sys.exit(main(["rules", "apply", "--this-node", "/run/b.yaml", "--cut", "--confirm", "600"]))
"""


def test_what_cannot_be_cut_is_in_force_all_the_same_and_says_so(machine: Machine) -> None:
    done = machine.run(sys.executable, "-P", "-c", AWAY)
    assert done.returncode != 0
    assert re.fullmatch(
        "hafw: generation 2 was put in force, but no connection was ended: nft cannot list the table; "
        f"{BACK}; when it is confirmed, apply it once more with --cut\n",
        done.stderr,
    )
    assert machine.read(PAIR_FILE) == B
    assert (
        machine.run(sys.executable, "-P", "-m", "agent", "rules", "confirm", "--this-node").returncode == 0
    )


# what the caller ignores (nohup: SIGHUP) would stay ignored
COUNTING = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
from agent.adapters import connections
real = connections.{step}
def counting(*arguments):
    {meanwhile}
    return real(*arguments)
connections.{step} = counting
from agent.__main__ import main
sys.exit(main(["rules", "apply", "--this-node", "/run/less.yaml", *{options}]))
"""


def counting(meanwhile: str, *options: str, step: str = "read_states") -> str:
    """A `hafw rules apply` of LESS, and what happens in the middle of a step."""
    return COUNTING.format(meanwhile=meanwhile, options=options, step=step)


ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "its connections were not counted: interrupted"),
        (("--confirm", "600"), f"its connections were not counted: interrupted; {BACK}"),
        (("--cut",), "no connection was ended: interrupted; apply it once more with --cut"),
    ],
)
def test_counting_can_be_interrupted(
    primary: Machine, number: int, options: tuple[str, ...], says: str
) -> None:
    program = counting(f"os.kill(os.getpid(), {int(number)})", *options)
    done = primary.run(sys.executable, "-P", "-c", program)
    assert done.returncode == 1
    assert re.fullmatch(f"hafw: generation 2 was put in force, but {says}\n", done.stderr), done.stderr
    assert_in_force(primary, LESS)
    assert "dport=80" in primary.must("conntrack", "-L")


@pytest.mark.parametrize("number", ENDING)
def test_but_what_it_has_begun_to_end_it_ends(primary: Machine, number: int) -> None:
    program = counting(f"os.kill(os.getpid(), {int(number)})", "--cut", step="end_states")
    done = primary.run(sys.executable, "-P", "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 connection cut that these rules do not allow" in done.stdout
    assert "dport=80" not in primary.must("conntrack", "-L")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "its connections were not counted: other rules are loaded by now; see: hafw rules generations"),
        (
            ("--cut",),
            "no connection was ended: other rules are loaded by now; apply it once more with --cut",
        ),
        (
            ("--confirm", "600"),
            "its connections were not counted: other rules are loaded by now; see: hafw rules generations",
        ),
    ],
)
def test_the_next_command_does_not_wait_until_all_are_counted(
    primary: Machine, options: tuple[str, ...], says: str
) -> None:
    """It may put other rules in force, and then what these rules forbid is not ended."""
    command = """sys.executable, "python3", "-P", "-m", "agent", "rules", "rollback", "--this-node\""""
    back = f"os.spawnl(os.P_WAIT, {command})"
    done = primary.run(sys.executable, "-P", "-c", counting(back, *options))
    assert_in_force(primary, A)
    assert (done.returncode, done.stderr) == (1, f"hafw: generation 2 was put in force, but {says}\n")
    assert "dport=80" in primary.must("conntrack", "-L")
