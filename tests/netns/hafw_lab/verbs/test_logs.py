# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab logs` on a running lab: what the daemons of a node, and its agent, have said."""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from hafw_lab.client import registry
from hafw_lab.model.fault import POWER
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import DEFAULT
from tests.checkout import ROOT

pytestmark = pytest.mark.netns
COMMAND = ["/usr/bin/python3", "-P", "-m", "hafw_lab", "logs", "--name"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}", "LC_ALL": "C.UTF-8"}
STARTED = "hafw agent for fw-2 of pair G1 has started"


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    made = f"l-{uuid.uuid4().hex[:8]}"
    registry.up(made, LabOptions(), DEFAULT, lambda _: None)
    try:
        yield made
    finally:
        registry.down(made, lambda _: None)


def logs(*arguments: str) -> list[str]:
    argv = [*COMMAND, *arguments]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_agent_says_what_it_has_recorded(name: str) -> None:
    with closing(registry.attach(name)) as lab:
        recorded = [str(record["message"]) for record in lab.node("fw-2").agent_records()]
    said = logs(name, "fw-2", "agent")
    assert STARTED in recorded
    assert [line.partition(" ")[2] for line in said][: len(recorded)] == recorded
    assert not [line for line in said if "{" in line]


def test_among_all_logs_each_line_names_its_daemon(name: str) -> None:
    said = logs(name, "fw-2")
    assert [line for line in said if line.startswith("agent ") and line.endswith(STARTED)]
    assert [line for line in said if line.startswith("keepalived ")]


def test_the_records_can_be_followed(name: str) -> None:
    argv = ["timeout", "60", *COMMAND, name, "fw-2", "agent", "--follow"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
        assert process.stdout is not None
        with closing(registry.attach(name)) as lab:
            lab.fail("fw-1", POWER)
            seen = next(line for line in process.stdout if "primary" in line)
        assert not seen.startswith("{")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_they_are_there_when_the_power_is_off(name: str) -> None:
    with closing(registry.attach(name)) as lab:
        lab.heal("fw-1")
        lab.fail("fw-2", POWER)
    assert [line for line in logs(name, "fw-2", "agent") if line.endswith(STARTED)]
