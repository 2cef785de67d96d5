# SPDX-License-Identifier: GPL-2.0-or-later
"""One planned handover under traffic, and what was lost of it."""

import json
import time
from dataclasses import dataclass

from hafw_lab.client.lab import Lab
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import other
from hafw_lab.traffic.session import Traffic, TrafficReport

CALM_S = 0.5
"""Before and after."""
_SETTLED_S = 3.0
"""As long as a role must be there before it is handed over (agent/core/handover.py)."""
_ASK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """`probes`, `udp_lost`: round trips; `tcp_lost`: segments of both directions. `silence_ms`: the longest
    time from a probe that was answered to the next one. `late_ms`: how late the client itself was."""

    from_node: str
    to_node: str
    seconds: float
    gap_ms: float
    probes: int
    udp_lost: int
    tcp_lost: int
    silence_ms: float
    late_ms: float

    def to_json(self) -> dict[str, object]:
        return {
            "from": self.from_node,
            "to": self.to_node,
            "tcp_lost": self.tcp_lost,
            "udp_lost": self.udp_lost,
            "silence_ms": self.silence_ms,
            "seconds": self.seconds,
            "gap_ms": self.gap_ms,
            "probes": self.probes,
            "late_ms": self.late_ms,
        }


def wait_calm(lab: Lab, timeout_s: float = 60.0) -> str:
    """Until both nodes would agree to a handover. Returns the primary."""
    primary = lab.wait_settled(timeout_s)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = json.loads(lab.node(primary).run(["hafw", "status", "--json"], check=False).stdout)
        nodes = [one for one in (status.get("nodes") or {}).values() if one]
        calm = [one["role_s"] > _SETTLED_S and not one["problems"] and one["ready"] for one in nodes]
        if calm == [True, True]:
            return primary
        time.sleep(_ASK_AGAIN_S)  # a status can only be asked for
    raise LabError(f"the pair is not calm: {nodes}")


def measure_handover(lab: Lab, traffic: Traffic) -> PlannedRun:
    """`traffic` has open connections that talk, and a probe. Raises LabError when there is no handover."""
    primary = wait_calm(lab)
    heir = other(lab, primary)
    begun_ns = traffic.mark()
    before = _tcp_lost(traffic.report())
    _let_pass(CALM_S)
    done = lab.node(primary).run(["hafw", "handover", "--json"], check=False)
    if done.returncode:
        raise LabError(f"{primary} did not hand over: {done.stdout or done.stderr}")
    found = json.loads(done.stdout)
    lab.wait_primary(heir, 10)
    _let_pass(CALM_S)
    report = traffic.report()
    if report.now_ns - begun_ns < 2 * CALM_S * 1e9:
        raise LabError("the traffic was not measured")
    return PlannedRun(
        primary,
        heir,
        seconds=found["seconds"],
        gap_ms=found["gap_ms"],
        probes=report.probe.sent,
        udp_lost=report.probe.lost,
        tcp_lost=_tcp_lost(report) - before,
        silence_ms=round(report.probe.blackout_ns / 1e6, 1),
        late_ms=round(report.late_ns / 1e6, 1),
    )


def _tcp_lost(report: TrafficReport) -> int:
    return sum(one.lost for one in report.connections)


def _let_pass(seconds: float) -> None:
    """Traffic is counted over a time."""
    time.sleep(seconds)
