# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw settle`, many at once: the real lock, the real nft, in namespaces of their own."""

import json
import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import ROOT

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

LIMIT_S = 20
ARGUMENTS = ("--file", str(ROOT / "examples" / "pair.yaml"), "--node", "fw-1")
SET_UP = """
mount -t tmpfs none /run && mount -t tmpfs none /var/log && ip link set lo up
for name in eth0 eth1 eth2; do ip link add $name type dummy && ip link set $name up; done
echo ready && exec cat
"""
# one that says when a run begins and ends, and waits inside its first run
SLOW = """
import sys
from agent.cli import main
from agent.engine import agent

settle, runs = agent.Agent.settle, 0

async def slow_settle(self):
    global runs
    runs += 1
    print("begin", file=sys.__stdout__, flush=True)
    if runs == 1:
        sys.stdin.readline()
    await settle(self)
    print("end", file=sys.__stdout__, flush=True)

agent.Agent.settle = slow_settle
sys.exit(main.main(["settle", *sys.argv[1:]]))
"""


@dataclass(frozen=True, slots=True)
class Place:
    pid: int

    def start(self, *argv: str, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["nsenter", "-m", "-n", "-t", str(self.pid), "/usr/bin/python3", "-P", *argv],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def settle(self) -> "subprocess.Popen[str]":
        return self.start("-m", "agent", "settle", *ARGUMENTS)

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def records(self) -> list[dict[str, Any]]:
        lines = (self.root / "var/log/hafw/agent.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def rules(self) -> str:
        argv = ["nsenter", "-n", "-t", str(self.pid), "nft", "list", "tables"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout


@pytest.fixture
def place() -> Iterator[Place]:
    argv = ["unshare", "-mn", "--propagation", "private", "/bin/sh", "-ec", SET_UP]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"ready\n"
        yield Place(holder.pid)
        holder.stdin.close()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, errors = process.communicate(timeout=LIMIT_S)
    return process.returncode, errors


def test_one_run_brings_the_node_into_order(place: Place) -> None:
    assert ended(place.settle()) == (0, "")
    assert "table inet hafw" in place.rules()
    (transition,) = [record for record in place.records() if record["event"] == "transition"]
    assert (transition["to"], transition["result"]) == ("stopped", "done")
    assert not (place.root / "run/hafw/settle-again").exists()
    assert (place.root / "run/hafw/ready").read_text().strip().startswith("-"), (
        "nobody knows that states are in"
    )


def test_ten_at_once_make_one_plan_at_a_time(place: Place) -> None:
    many = [place.settle() for _ in range(10)]
    assert [ended(process) for process in many] == [(0, "")] * 10
    assert not (place.root / "run/hafw/settle-again").exists(), "somebody's wish was left undone"
    spans: dict[str, tuple[float, float]] = {}
    for record in place.records():
        if record["event"] == "step" and "transition" in record:
            end = record["mono_ns"]
            begin = end - record["duration_ms"] * 1e6
            first, last = spans.get(record["transition"], (begin, end))
            spans[record["transition"]] = min(first, begin), max(last, end)
    assert 1 <= len(spans) <= 10
    in_order = sorted(spans.values())
    for (_, end), (begin, _) in pairwise(in_order):
        assert end <= begin, "two plans at the same time"
    assert place.rules().splitlines() == ["table inet hafw", "table inet hafw-gate"]


@contextmanager
def slow_run(place: Place) -> Iterator["subprocess.Popen[str]"]:
    process = place.start("-c", SLOW, *ARGUMENTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
    assert ready
    return process.stdout.readline().strip()


def test_who_is_at_work_does_it_again_for_all_who_came_meanwhile(place: Place) -> None:
    with slow_run(place) as working:
        assert line_of(working) == "begin"
        others = [place.settle() for _ in range(9)]
        # they do not wait for it
        assert [ended(process) for process in others] == [(0, "")] * 9
        assert not (place.root / "var/log/hafw/agent.jsonl").exists(), "somebody worked beside it"
        working.communicate("go\n", timeout=LIMIT_S)
        assert working.returncode == 0
    done = [record for record in place.records() if record["event"] == "transition"]
    assert len(done) == 2, "once for itself and once for the nine"
    assert not (place.root / "run/hafw/settle-again").exists()


def test_one_that_was_killed_leaves_no_lock(place: Place) -> None:
    with slow_run(place) as working:
        assert line_of(working) == "begin"
        working.kill()
        working.communicate()
    assert ended(place.settle()) == (0, "")
    assert "table inet hafw" in place.rules()


def test_nothing_is_done_beside_a_resident_agent(place: Place) -> None:
    (place.root / "run/hafw").mkdir()
    holder = subprocess.Popen(
        ["flock", str(place.root / "run/hafw/agent.lock"), "sh", "-c", "echo held; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        assert ended(place.settle()) == (0, "")
        assert "hafw" not in place.rules()
