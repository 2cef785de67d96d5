# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal view, from values alone."""

from dataclasses import replace

import pytest

from hafw_lab.client.lab import LabStatus, NodeStatus, ServiceStatus
from hafw_lab.verbs.watch_screen import KEYS, Tone, draw

AGENT = {
    "role": "primary",
    "role_seconds": 12.3,
    "gate": "open",
    "problems": {},
    "rules": {"loaded": "primary", "intact": True},
    "states": {"mode": "cache", "kernel": 1200, "internal_cache": 1100, "external_cache": 3},
    "last_transition": {"from": "backup", "to": "primary", "result": "done", "duration_ms": 1.6},
}


def node(name: str, **changes: object) -> NodeStatus:
    base = NodeStatus(
        name=name,
        firewall=True,
        alive=True,
        vips=(),
        links={"eth0": True, "eth1": True},
        services={"agent": ServiceStatus(True, 7, None)},
        conntrack=1,
        refused_sysctls=(),
        logs=(),
        agent=AGENT,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # fields by name, checked by the dataclass


def lab(*nodes: NodeStatus, primary: str | None = "fw-1") -> LabStatus:
    return LabStatus("lab", primary, {}, nodes)


def row(status: LabStatus, label: str) -> str:
    lines = draw(status, (), width=80, height=24, now="now")
    return next(line.text for line in lines if line.text.startswith(label))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60), (10, 3)])
def test_it_never_exceeds_the_terminal_and_the_keys_stay(width: int, height: int) -> None:
    lines = draw(lab(node("fw-1"), node("fw-2")), ["x" * 300] * 50, width=width, height=height, now="now")
    assert len(lines) <= height
    assert all(len(line.text) <= width for line in lines)
    if (width, height) == (80, 24):
        assert all(any(key.text in line.text for line in lines) for key in KEYS)


def test_the_lag_is_what_the_backup_would_miss() -> None:
    states = {**AGENT["states"], "external_cache": 1050}  # type: ignore[dict-item]  # it is a dict
    backup = node("fw-2", agent={**AGENT, "role": "backup", "states": states})
    assert row(lab(node("fw-1"), backup), "sync lag").split() == ["sync", "lag", "-", "50", "states"]


def test_a_dead_node_and_a_dead_link_are_seen() -> None:
    status = lab(
        node("fw-1", links={"eth0": False, "eth1": True}),
        node("fw-2", alive=False, agent=None, services={}),
    )
    assert row(status, "power").split() == ["power", "on", "OFF"]
    assert "eth0:DOWN" in row(status, "links")
    assert row(status, "role").split() == ["role", "primary,", "12", "s", "-"]


def test_nobody_primary_and_an_agent_with_problems_stand_out() -> None:
    status = lab(node("fw-1", agent={**AGENT, "problems": {"states": "words"}}), primary=None)
    lines = draw(status, (), width=80, height=24, now="now")
    assert lines[0].tone is Tone.BAD
    assert next(line for line in lines if line.text.startswith("problems")).tone is Tone.BAD
    well = draw(lab(node("fw-1")), (), width=80, height=24, now="now")
    assert not [line for line in well if line.tone is Tone.BAD]
