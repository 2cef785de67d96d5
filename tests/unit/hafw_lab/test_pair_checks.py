# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of a pair find wrong is said in words, also while an agent starts again."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hafw_lab.client.lab import Lab, LabStatus, NodeStatus
from tests.netns.pair_checks import find_problems


def lab_whose_agent_says(said: Mapping[str, Any] | None) -> Lab:
    node = NodeStatus(
        name="fw-1",
        firewall=True,
        alive=True,
        vips=(),
        links={},
        services={},
        conntrack=0,
        refused_sysctls=(),
        logs=(),
        agent=said,
    )
    status = LabStatus("mine", "fw-1", {}, (node,))
    return cast("Lab", SimpleNamespace(status=lambda: status, firewalls=("fw-1",), node=lambda name: name))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (None, "fw-1: the agent is silent"),
        (
            {"schema": 1, "error": "it does not answer (Connection refused)"},
            "fw-1: the agent gives no status: it does not answer (Connection refused)",
        ),
    ],
)
def test_an_agent_without_status_is_a_problem(said: Mapping[str, Any] | None, problem: str) -> None:
    assert find_problems(lab_whose_agent_says(said)) == [problem]
