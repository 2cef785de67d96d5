# SPDX-License-Identifier: GPL-2.0-or-later
"""What a measured failover was set up as, and what came out of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.model.pair import SyncMode
from hafw_lab.measure.series import Series
from hafw_lab.measure.timeline import AgentFigures
from hafw_lab.model.fault import POWER, Fault
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.traffic.figures import Connection, ProbeFigures
from hafw_lab.traffic.ports import SPARE_PORTS, USUAL_PORTS, Ports


@dataclass(frozen=True, slots=True)
class Setup:
    """`states` are further ones, beside the measured connections."""

    agent: AgentKind = AgentKind.HAFW
    sync: SyncMode = SyncMode.DIRECT
    nat: bool = True
    states: int = 0
    advert_interval_ms: int = 100
    fault: Fault = POWER
    connections: int = 50
    rate_hz: int = 1000
    push_interval_ms: int = 10
    """Between two messages of one connection."""
    machines: tuple[tuple[str, str], ...] = ()
    """(node, release of Debian in it) of those that are virtual machines."""
    host: str | None = None
    """The node that is this machine itself."""

    @property
    def ports(self) -> Ports:
        return SPARE_PORTS if self.host else USUAL_PORTS

    def options(self) -> LabOptions:
        """The lab that it takes; without NAT the server has to know the way back."""
        allowed = [{"tcp": self.ports.tcp}, {"udp": self.ports.udp}]
        return LabOptions(
            agent=self.agent,
            sync=self.sync,
            advert_interval_ms=self.advert_interval_ms,
            nat=self.nat,
            server_route=not self.nat,
            machines=dict(self.machines),
            host=self.host,
            policy=({"from": "client", "to": "server", "allow": allowed},) if self.host else (),
        )

    def describe(self) -> str:
        nat = "" if self.nat else ", no NAT"
        what = f"{self.agent.value}, {self.sync.value}, {self.states:,} states"
        return f"{what}, advert {self.advert_interval_ms} ms{nat}"


@dataclass(frozen=True, slots=True)
class FailoverResult:
    """`problems` are what was wrong with the pair afterwards, in words. `longest_stall_ms` is that of the
    surviving connections, None if there is none. `doubts` are signs that the measuring itself was
    disturbed."""

    setup: Setup
    detection_bound_ms: float
    opened: int
    survived: int
    reset: int
    longest_stall_ms: float | None
    sent: int
    lost: int
    blackout_ms: float
    probe_resumed: bool
    agent: AgentFigures
    timeline: tuple[dict[str, object], ...]
    victim: str
    survivor: str
    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    series: Series = field(default_factory=Series)

    @property
    def nothing_lost(self) -> bool:
        return self.opened == self.setup.connections and self.survived == self.opened and self.probe_resumed

    def to_json(self) -> dict[str, object]:
        """The form that `--json` promises; it has these keys and no others."""
        setup = self.setup
        return {
            "setup": {
                "agent": setup.agent.value,
                "sync": setup.sync.value,
                "nat": setup.nat,
                "states": setup.states,
                "advert_interval_ms": setup.advert_interval_ms,
                "fault": str(setup.fault),
            },
            "detection_bound_ms": round(self.detection_bound_ms, 3),
            "connections": {
                "opened": self.opened,
                "survived": self.survived,
                "reset": self.reset,
                "longest_stall_ms": _rounded(self.longest_stall_ms),
            },
            "probe": {
                "rate_hz": setup.rate_hz,
                "lost": self.lost,
                "blackout_ms": _rounded(self.blackout_ms),
            },
            "agent": {
                "notified_to_open_ms": _rounded(self.agent.notified_to_open_ms),
                "commit_ms": _rounded(self.agent.commit_ms),
                "expected": self.agent.expected,
                "committed": self.agent.committed,
            },
            "timeline": list(self.timeline),
        }


def detection_bound_ms(advert_interval_ms: float, backup_priority: int) -> float:
    """VRRPv3's Master_Down_Interval (RFC 9568, 6.1): how long a backup waits for the next advertisement at
    most."""
    return 3 * advert_interval_ms + (256 - backup_priority) / 256 * advert_interval_ms


def count_connections(connections: Sequence[Connection]) -> tuple[int, int, float | None]:
    """(survived, reset, longest stall of a survivor in ms)."""
    stalls = [connection.stall_ns for connection in connections if connection.survived]
    reset = sum(connection.reset for connection in connections)
    return len(stalls), reset, max(stalls) / 1e6 if stalls else None


def find_doubts(probe: ProbeFigures, late_ns: int) -> tuple[str, ...]:
    """Signs that the measuring itself was disturbed, in words."""
    found = []
    if late_ns > 20_000_000:
        found.append(
            f"the measuring client was itself {late_ns / 1e6:.0f} ms late once: this machine is too busy"
        )
    if abs(probe.blackout_ns - probe.silence_ns) > 50_000_000 and probe.silence_ns:
        found.append(
            f"the silence is {probe.blackout_ns / 1e6:.0f} ms by the receiving clock and"
            f" {probe.silence_ns / 1e6:.0f} ms by the sending clock"
        )
    return tuple(found)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
