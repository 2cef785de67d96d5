# SPDX-License-Identifier: GPL-2.0-or-later
"""One measured failover: states and connections in, a fault, and what became of them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Interface

from agent.model.pair import SyncMode
from hafw_lab.client.lab import Lab
from hafw_lab.errors import LabError
from hafw_lab.measure.result import FailoverResult, Setup, count_connections, detection_bound_ms, find_doubts
from hafw_lab.measure.series import Series, bin_probes, rates
from hafw_lab.measure.states import (
    add_states,
    count_replicated,
    holds_connection,
    replicate_all,
    room_for_states,
    state_lines,
    wait_replicated,
)
from hafw_lab.measure.timeline import (
    AgentFigures,
    Moment,
    agent_figures,
    agent_moments,
    at_home,
    keepalived_moments,
    relative,
    stock_figures,
    traffic_moments,
)
from hafw_lab.model.fault import POWER, Fault
from hafw_lab.model.options import AgentKind
from hafw_lab.model.topology import DEFAULT, Topology
from hafw_lab.progress import Progress
from hafw_lab.traffic.session import Snapshot, Traffic, TrafficReport, start_traffic

CLIENT, SERVER = "client", "omarine"
_TICK_S = 0.1
_SETTLE_S = 30.0
_RECORDS_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One failover of `lab`: the primary is the `victim` of the fault, `survivor` should take over."""

    lab: Lab
    setup: Setup
    progress: Progress
    victim: str
    survivor: str

    @property
    def bound_ms(self) -> float:
        """When the survivor should have noticed at the latest."""
        return detection_bound_ms(self.setup.advert_interval_ms, priority_of(DEFAULT, self.survivor))


def run_failover(
    lab: Lab,
    setup: Setup,
    progress: Progress,
    *,
    calm_s: float = 1.0,
    heal: bool = True,
    trouble: Callable[[str, str], AbstractContextManager[None]] | None = None,
) -> FailoverResult:
    """Measure one failover of a lab that was started with `setup.options()`, after `calm_s` of undisturbed
    traffic. With `heal` the node that failed comes back at the end and must get the states again. `trouble`:
    what else is wrong meanwhile, from before the traffic until the failover is over; it is told the victim
    and the survivor. Raises LabError when it does not come to a measurement; what is wrong with the pair
    after the fault is in the result instead."""
    lab.wait_settled(_SETTLE_S * lab.patience)
    victim = require_primary(lab)
    trial = Trial(lab, setup, progress, victim, other(lab, victim))
    if setup.states:
        put_states(lab, setup, victim, trial.survivor, progress)
    with (
        trouble(victim, trial.survivor) if trouble else contextlib.nullcontext(),
        start_trial_traffic(trial) as traffic,
    ):
        opened = _open(trial, traffic, calm_s)
        fault_ns = cause_fault(trial)
        watch_traffic(trial, traffic, fault_ns)
        report = traffic.report()
        figures = _agent_figures(trial, fault_ns)
        problems = list(_check_primary(trial, traffic))
    moments = [Moment(fault_ns, victim, say_fault(setup.fault))]
    if heal:
        moments.append(Moment(time.monotonic_ns(), victim, "the fault is repaired"))
        problems += _check_return(trial)
    moments += _moments(trial, report, fault_ns)
    survived, reset, longest_stall_ms = count_connections(report.connections)
    return FailoverResult(
        setup=setup,
        detection_bound_ms=trial.bound_ms,
        opened=opened,
        survived=survived,
        reset=reset,
        longest_stall_ms=longest_stall_ms,
        sent=report.probe.sent,
        lost=report.probe.lost,
        blackout_ms=report.probe.blackout_ns / 1e6,
        probe_resumed=report.probe.resumed_ns is not None,
        agent=figures,
        timeline=tuple(relative(moments, fault_ns)),
        victim=victim,
        survivor=trial.survivor,
        problems=tuple(problems),
        doubts=find_doubts(report.probe, report.late_ns),
        series=_series(report, fault_ns, trial.bound_ms),
    )


def _series(report: TrafficReport, fault_ns: int, bound_ms: float) -> Series:
    """From half a second before the fault until well after any sensible failover."""
    after_ms = max(round(3 * bound_ms), round(report.probe.blackout_ns / 1e6) + 500)
    probes = bin_probes(report.sent_ns, report.answered, fault_ns, before_ms=500, after_ms=after_ms)
    shown = tuple(one for one in rates(report.samples, fault_ns) if -500 <= one.t_ms <= after_ms)
    return Series(probes, shown)


# -- before the fault ------------------------------------------------------------


@contextlib.contextmanager
def start_lab(setup: Setup, progress: Progress) -> Iterator[Lab]:
    """The lab for a measurement, with room for its states."""
    with room_for_states(setup.states, progress), Lab.start(setup.options(), progress=progress) as lab:
        yield lab


def require_primary(lab: Lab) -> str:
    found = lab.primary()
    if found is None:
        raise LabError("no firewall holds all virtual addresses", "look at: hafw-lab logs fw-1 keepalived")
    return found


def other(lab: Lab, name: str) -> str:
    return next(node for node in lab.firewalls if node != name)


def address_of(topology: Topology, name: str) -> str:
    node = topology.node(name)
    if node is None:
        raise LabError(f"this topology has no node {name}", "the measurement needs the default topology")
    return str(node.links[0].addresses[0].ip)


def priority_of(topology: Topology, name: str) -> int:
    node = topology.node(name)
    assert node is not None
    assert node.priority is not None
    return node.priority


def virtual_address(topology: Topology, zone: str) -> IPv4Interface:
    for segment in topology.in_zone(zone):
        for vip in segment.vips:
            if isinstance(vip, IPv4Interface):
                return vip
    raise LabError(f"zone {zone} has no IPv4 virtual address", "the measurement needs the default topology")


def put_states(lab: Lab, setup: Setup, primary: str, backup: str, progress: Progress) -> None:
    """Put the further states into the primary and wait until the backup has them."""
    clients, servers = virtual_address(DEFAULT, "client"), virtual_address(DEFAULT, "server")
    lines = state_lines(clients.network, servers.network, servers.ip if setup.nat else None)
    add_states(lab.node(primary), lines, setup.states, progress)
    replicate_all(lab.node(primary), setup.states, progress)
    wait_replicated(lab.node(backup), setup.sync, setup.states, progress)
    progress(f"{backup}: all {setup.states:,} states have arrived")
    lab.wait_settled(_SETTLE_S * lab.patience)


def start_trial_traffic(trial: Trial) -> AbstractContextManager[Traffic]:
    client, server = trial.lab.node(CLIENT), trial.lab.node(SERVER)
    return start_traffic(
        client,
        server,
        address_of(DEFAULT, SERVER),
        ports=trial.setup.ports,
        clocks=(client.measure_clock(), server.measure_clock()),
        push_interval_ms=trial.setup.push_interval_ms,
    )


def _open(trial: Trial, traffic: Traffic, calm_s: float) -> int:
    """Connections and probe, replicated and flowing for `calm_s`; returns how many connections came up."""
    lab, setup = trial.lab, trial.setup
    node, live = lab.node(trial.survivor), _Live(trial)
    before = count_replicated(node, setup.sync)
    ports = traffic.open(setup.connections)
    traffic.probe(setup.rate_hz)
    client, server = address_of(DEFAULT, CLIENT), address_of(DEFAULT, SERVER)

    def replicated() -> bool:
        # Of many states that are sent again at once the kernel counts some twice, so the count alone proves
        # nothing.
        if setup.sync is SyncMode.DIRECT:
            return all(holds_connection(node, client, port, server, setup.ports.tcp) for port in ports[-1:])
        return count_replicated(node, setup.sync) >= before + len(ports)

    limit_s = (15 + setup.states / 5000) * lab.patience
    if not _wait(replicated, limit_s, traffic, live):
        raise LabError(f"{node.name} did not get the states of the connections within {limit_s:.0f} s")
    calm_ns = time.monotonic_ns() + round(calm_s * 1e9)

    def flowing() -> bool:
        return (snapshot := traffic.snapshot()).alive() == len(ports) and snapshot.now_ns > calm_ns

    if not _wait(flowing, calm_s + 15 * lab.patience, traffic, live):
        raise LabError(f"the {len(ports)} connections do not all flow before the fault")
    traffic.mark()
    return len(ports)


def _wait(what: Callable[[], bool], limit_s: float, traffic: Traffic, live: "_Live") -> bool:
    deadline = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > deadline:
            return False
        live.show(traffic.snapshot())
        time.sleep(_TICK_S)  # counters and tables can only be asked, nothing reports their change
    return True


class _Live:
    """At most one line a second of what happens; a line at once when the primary changes."""

    def __init__(self, trial: Trial) -> None:
        self._lab, self._progress = trial.lab, trial.progress
        self._last: Snapshot | None = None
        self._primary: str | None = ""

    def show(self, now: Snapshot) -> None:
        primary = self._lab.primary()
        elapsed_s = (now.now_ns - self._last.now_ns) / 1e9 if self._last else 1.0
        if self._last and elapsed_s < 1 and primary == self._primary:
            return
        rate = (
            f", probe answered {(now.received - self._last.received) / elapsed_s:4.0f}/s"
            if self._last
            else ""
        )
        kilobytes = now.bytes / 1000
        self._progress(
            f"primary {primary or 'none':<6}  {now.alive():3d} connections flow, {kilobytes:8.1f} kB{rate}"
        )
        self._last, self._primary = now, primary


# -- after it ------------------------------------------------------------


def cause_fault(trial: Trial) -> int:
    """Returns when, by CLOCK_MONOTONIC in ns."""
    if trial.lab.primary() != trial.victim:
        text = f"{trial.victim} lost the virtual addresses before the fault"
        raise LabError(text, "is this machine overloaded?")
    fault_ns = trial.lab.fail(trial.victim, trial.setup.fault)
    trial.progress(f"{trial.setup.fault} of {trial.victim}, the primary")
    return fault_ns


def watch_traffic(trial: Trial, traffic: Traffic, fault_ns: int) -> None:
    """Until the probe is answered and every connection flows again or is known to be broken, or until it is
    clear that this will not happen; then a second more."""
    live, longest_s = _Live(trial), 20 + trial.setup.states // 10_000
    earliest_ns = fault_ns + round(2 * trial.bound_ms * 1e6) + 300_000_000
    latest_ns = fault_ns + round(4 * trial.bound_ms * 1e6) + longest_s * 1_000_000_000
    until_ns = latest_ns
    while (snapshot := traffic.snapshot()).now_ns < until_ns:
        live.show(snapshot)
        well = snapshot.echoes and not snapshot.waiting
        # late enough for a connection that has been silent since the fault to be called so
        late = snapshot.now_ns > earliest_ns + snapshot.patience_ms * 1_000_000
        if well and late and until_ns == latest_ns:
            until_ns = snapshot.now_ns + 1_000_000_000
        time.sleep(_TICK_S)  # what the traffic does is asked, so as not to disturb it with notices


def _check_primary(trial: Trial, traffic: Traffic) -> Iterator[str]:
    """What is wrong with the new primary, in words."""
    lab, survivor = trial.lab, trial.survivor
    if lab.primary() != survivor:
        yield f"{survivor} does not hold all virtual addresses alone"
    if not traffic.open(1):
        yield "a new connection does not come up"
    for node in lab.status().nodes:
        role = (node.agent or {}).get("role")
        if node.name == survivor and role not in (None, "primary"):
            yield f"the agent of {survivor} says that it is {role}"


def _check_return(trial: Trial) -> Iterator[str]:
    """Let the node that failed come back; what is wrong then, in words."""
    lab, setup, victim, survivor = trial.lab, trial.setup, trial.victim, trial.survivor
    trial.progress(f"{victim} comes back")
    try:
        lab.heal(victim)
        lab.wait_settled(_SETTLE_S * lab.patience)
        wait_replicated(lab.node(victim), setup.sync, setup.states, trial.progress)
    except LabError as error:
        yield f"{victim} did not come back well ({error})"
        return
    if lab.primary() != survivor:
        yield f"{survivor} is not the primary any more after {victim} has come back"
    else:
        trial.progress(f"{victim} is back as backup and has the states")


def _agent_figures(trial: Trial, fault_ns: int) -> AgentFigures:
    node = trial.lab.node(trial.survivor)
    if trial.setup.agent is not AgentKind.HAFW:
        return stock_figures(node.daemon_log(), fault_ns)
    deadline = time.monotonic() + _RECORDS_TIMEOUT_S
    clock = node.measure_clock()
    while True:
        with contextlib.suppress(LabError):  # no record was written yet
            figures = agent_figures(clock.records(node.agent_records()), fault_ns)
            if figures.notified_to_open_ms is not None:
                return figures
        if time.monotonic() > deadline:
            return AgentFigures()
        time.sleep(_TICK_S)  # the record of a transition is written when the last of its steps is done


def _moments(trial: Trial, report: TrafficReport, fault_ns: int) -> Iterator[Moment]:
    for name in trial.lab.firewalls:
        node = trial.lab.node(name)
        with contextlib.suppress(LabError):  # a log that is not there has nothing to tell
            clock = node.measure_clock()
            if clock.error_ns:
                trial.progress(f"{name}: times of its own clock are right to {clock.error_ns / 1e6:.1f} ms")
            yield from at_home(keepalived_moments(node.daemon_log(), name), clock)
            yield from agent_moments(clock.records(node.agent_records()), name)
    yield from traffic_moments(report.connections, report.probe, fault_ns, CLIENT)


def say_fault(fault: Fault) -> str:
    if fault == POWER:
        return "power off: its links fall silent at once, then every process ends"
    return f"link {fault.link} loses its carrier" if fault.link else f"fault: {fault}"
