# SPDX-License-Identifier: GPL-2.0-or-later
"""What the looks at keepalived say of it."""

import pytest

from agent.core.conditions import Condition
from agent.core.keepalived import (
    NOT_RUNNING,
    judge_bus,
    judge_halted,
    judge_instances,
    judge_pid_file,
    judge_process,
)


@pytest.mark.parametrize(
    ("owned", "connected", "hung", "ok", "words"),
    [
        (True, True, False, True, "is heard"),
        (False, True, False, False, "only its restart"),
        (True, True, True, False, "does not answer"),
        (False, False, False, False, "is not available"),
    ],
)
def test_bus(owned: bool, connected: bool, hung: bool, ok: bool, words: str) -> None:
    condition, found, text = judge_bus(owned=owned, connected=connected, hung=hung)
    assert (condition, found) == (Condition.BUS, ok)
    assert words in text


@pytest.mark.parametrize(
    ("silent", "proven", "instances", "forgotten"),
    [
        ({}, False, True, True),
        ({}, True, True, True),
        ({"eth0": "no object"}, False, False, True),
        ({"eth0": "no object"}, True, True, False),
    ],
)
def test_a_silent_instance_is_critical_unless_this_node_serves_all_the_same(
    silent: dict[str, str], proven: bool, instances: bool, forgotten: bool
) -> None:
    found = judge_instances(silent, proven)
    assert [(condition, ok) for condition, ok, _ in found] == [
        (Condition.INSTANCES, instances),
        (Condition.INSTANCES_FORGOTTEN, forgotten),
    ]
    assert all(ok or "eth0: no object" in text for _, ok, text in found)


@pytest.mark.parametrize(("state", "ok"), [("R", True), ("S", True), ("T", False), ("t", False)])
def test_a_stopped_process_is_named(state: str, ok: bool) -> None:
    condition, found, text = judge_process(42, state)
    assert (condition, found) == (Condition.KEEPALIVED_STOPPED, ok)
    assert text.endswith("kill -CONT 42") != ok


def test_a_wrong_pid_file_is_named() -> None:
    assert judge_pid_file("/run/vrrp.pid", 42, True)[1]
    assert "/run/vrrp.pid does not name" in judge_pid_file("/run/vrrp.pid", 42, False)[2]


def test_halted_processes_are_distinguished() -> None:
    assert judge_halted(None)[1]
    assert judge_halted({})[1]
    _, ok, text = judge_halted({7: "Z", 5: "T"})
    assert not ok
    assert "process 5 is stopped" in text
    assert "process 7 has ended" in text


def test_nothing_is_wrong_with_a_keepalived_that_does_not_run_but_that() -> None:
    assert all(ok for _, ok, _ in NOT_RUNNING)
