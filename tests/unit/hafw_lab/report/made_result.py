# SPDX-License-Identifier: GPL-2.0-or-later
"""A failover that nobody measured, for what is computed and drawn from one."""

from hafw_lab.measure.result import FailoverResult, Setup
from hafw_lab.measure.timeline import AgentFigures

TIMELINE: tuple[dict[str, object], ...] = (
    {"t_ms": 0.0, "node": "fw-1", "what": "power off"},
    {"t_ms": 341.25, "node": "client", "what": "answered again"},
    {"t_ms": 2000.0, "node": "fw-1", "what": "is back"},
    {"t_ms": 2100.0, "node": "fw-2", "what": "still there"},
)
RESULT = FailoverResult(
    setup=Setup(),
    detection_bound_ms=345.3125,
    opened=50,
    survived=50,
    reset=0,
    longest_stall_ms=352.0004,
    sent=5000,
    lost=340,
    blackout_ms=341.25,
    probe_resumed=True,
    agent=AgentFigures(notified_to_open_ms=3.2),
    timeline=TIMELINE,
    victim="fw-1",
    survivor="fw-2",
)
