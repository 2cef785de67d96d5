# SPDX-License-Identifier: GPL-2.0-or-later
"""External changes to the rules where the agent runs: ours are repaired or reported, theirs are left
alone."""

import json
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest

from agent.engine.observer import POLL_S
from agent.rules.objects import TABLES
from tests.checkout import ROOT
from tests.netns.agent.rules.tables_of_others import THEIRS
from tests.netns.machine import Machine, start_agent, start_machine
from tests.netns.pair_checks import until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif("os.geteuid() != 0", reason="has /etc, /run and /var of its own, which root may"),
]

PAIR_FILE = "/etc/hafw/hafw.yaml"
PAIR = (ROOT / "examples" / "pair.yaml").read_text()
PATIENCE_S = 30
FLUSHES = 10

NFTABLES_CONF = """#!/usr/sbin/nft -f
flush ruleset
table inet filter {
    chain input {
        type filter hook input priority filter
    }
}
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with start_machine() as started:
        started.write(PAIR_FILE, PAIR)
        yield started


def theirs(machine: Machine) -> list[Any]:
    listed = json.loads(machine.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    bodies = [(kind, body) for entry in listed for kind, body in entry.items() if kind != "metainfo"]
    return [
        (kind, body) for kind, body in bodies if body["name" if kind == "table" else "table"] not in TABLES
    ]


def nft(machine: Machine, text: str) -> None:
    done = machine.run("nft", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr


def wait_message(machine: Machine, event: str, since: int) -> str:
    found: list[str] = []

    def is_there() -> bool:
        records = [one for one in machine.records() if one["mono_ns"] >= since]
        found[:] = [
            one["message"] for one in records if one["event"] == event and one["condition"] == "rules"
        ]
        return bool(found)

    until(is_there, PATIENCE_S, lambda: f"no {event}: {machine.records()[-3:]}")
    return found[0]


def wait_intact(machine: Machine) -> None:
    until(lambda: machine.digest() is not None, PATIENCE_S, "our table is not there")


@pytest.mark.parametrize("whose", THEIRS)
def test_tables_of_others_survive_start_work_and_stop(machine: Machine, whose: str) -> None:
    nft(machine, THEIRS[whose])
    before = theirs(machine)
    assert before
    with start_agent(machine):
        wait_intact(machine)
        assert theirs(machine) == before
        machine.write(PAIR_FILE, PAIR.replace("allow: [", "allow: [smtp, "))
        machine.rules("apply")
        assert theirs(machine) == before
    assert theirs(machine) == before
    assert machine.digest() is not None, "an agent that stops leaves its rules in force"


def test_the_flush_of_nftables_service_is_repaired_and_its_own_rules_stay(machine: Machine) -> None:
    machine.write("/etc/nftables.conf", NFTABLES_CONF)
    with start_agent(machine):
        wait_intact(machine)
        since = time.monotonic_ns()
        assert machine.run("nft", "-f", "/etc/nftables.conf").returncode == 0
        assert "is gone" in wait_message(machine, "alarm", since)
        wait_message(machine, "recovered", since)
        wait_intact(machine)
        assert [body["name"] for kind, body in theirs(machine) if kind == "table"] == ["filter"]


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("insert rule inet hafw input tcp dport 23 accept", "chain input has more: tcp port 23: accept"),
        ("delete element inet hafw data { eth1 }", "set data has less: eth1"),
        ("flush chain inet hafw from/eth1/to/eth0", "has less: tcp port 22: accept (client to server: ssh)"),
    ],
)
def test_an_edit_is_repaired_and_reported_in_words(machine: Machine, command: str, what: str) -> None:
    with start_agent(machine):
        wait_intact(machine)
        since = time.monotonic_ns()
        machine.run("nft", *command.split())
        assert what in wait_message(machine, "alarm", since)
        wait_message(machine, "recovered", since)
        assert "tcp dport 23" not in machine.run("nft", "list", "table", "inet", "hafw").stdout


def test_an_edit_is_only_reported_where_the_pair_file_says_so(machine: Machine) -> None:
    machine.write(PAIR_FILE, f"{PAIR}drift: report\n")
    with start_agent(machine):
        wait_intact(machine)
        since = time.monotonic_ns()
        machine.run("nft", "add", "chain", "inet", "hafw", "mine")
        message = wait_message(machine, "alarm", since)
        assert "chain mine" in message
        assert "left as it is" in message
        again = time.monotonic_ns()
        machine.run("nft", "add", "table", "ip", "any")  # makes the agent look again
        machine.run("nft", "delete", "chain", "inet", "hafw", "mine")
        assert "ours again" in wait_message(machine, "recovered", again)
        loads = [
            one for one in machine.records() if one.get("step") == "LoadRules" and one["mono_ns"] > since
        ]
        assert not loads


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (
            "add table inet hafw { flags dormant; }",
            "table inet hafw was made dormant (by another program); until the rules are back nothing is"
            " forwarded and only management and the other node come in",
        ),
        (
            "chain inet hafw input { policy accept; }",
            "chain input of table inet hafw accepts by default (by another program); until the rules are"
            " back only management and the other node come in",
        ),
        ("delete table inet hafw-gate", "table inet hafw-gate was removed"),
    ],
)
def test_what_was_opened_is_closed_and_comes_back_also_where_it_would_only_be_reported(
    machine: Machine, command: str, what: str
) -> None:
    machine.write(PAIR_FILE, f"{PAIR}drift: report\n")
    with start_agent(machine):
        wait_intact(machine)
        tables = set(machine.run("nft", "-s", "list", "ruleset").stdout.splitlines())
        since = time.monotonic_ns()
        machine.must("nft", command)
        assert what in wait_message(machine, "alarm", since)
        wait_message(machine, "recovered", since)
        assert set(machine.run("nft", "-s", "list", "ruleset").stdout.splitlines()) == tables


def test_a_flush_is_noticed_by_the_kernels_word_and_not_by_the_next_look(machine: Machine) -> None:
    noticed_ms, took_ms = [], []
    with start_agent(machine):
        wait_intact(machine)
        begun = time.monotonic()
        for _ in range(FLUSHES):
            since = time.monotonic_ns()
            machine.must("nft", "flush", "ruleset")
            took_ms.append((time.monotonic_ns() - since) / 1e6)
            wait_message(machine, "recovered", since)
            alarms = [one["mono_ns"] for one in machine.records() if one["event"] == "alarm"]
            noticed_ms.append((max(alarms) - since) / 1e6)
        all_s = time.monotonic() - begun
    print(
        f"{FLUSHES} flushes, noticed {median(noticed_ms):.0f} ms after the start of nft"
        f" (most {max(noticed_ms):.0f}), whose own run took {median(took_ms):.0f} ms"
    )
    assert all_s < FLUSHES * POLL_S / 2, "the average of what a look at every poll would need"
