# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench rejoin`: the backup loses its power and comes back empty; how long until it has all states again,
and what a second failover keeps that comes as soon as it is said to be ready.

Whether it has all states is found by a comparison of both kernels' tables, whatever anyone says. Such a look
takes time, and the second failover must come at once; so the backup comes back twice.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum

from hafw_lab.bench.failover import say_duration
from hafw_lab.client.lab import Lab
from hafw_lab.client.node import Node
from hafw_lab.compose.lab import READINESS
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import (
    CLIENT,
    SERVER,
    Trial,
    address_of,
    cause_fault,
    other,
    require_primary,
    start_trial_traffic,
    virtual_address,
    watch_traffic,
)
from hafw_lab.measure.result import Setup, count_connections
from hafw_lab.measure.states import add_states, count_states, replicate_all, room_for_states, state_lines
from hafw_lab.measure.tables import Comparison, Table, open_table
from hafw_lab.model.fault import POWER
from hafw_lab.model.options import AgentKind
from hafw_lab.model.topology import DEFAULT
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table
from hafw_lab.spoken import Ink
from hafw_lab.traffic import new_connections
from hafw_lab.traffic.ports import USUAL_PORTS
from hafw_lab.traffic.program import Program

NEW_HZ = 2_000
_NEW_LIVE_S = 40
"""Longer than the kernel keeps the state of a datagram that is not answered: 30 s."""
_NEW_TARGETS = slice(110, 118)
"""Of the servers' network; neither the nodes nor the servers of the many states."""
_GOALS_S = {300_000: 10, 1_000_000: 45}
_HEAD = ("method", "states", "whole after s", "present", "survived the second")
_SETTLE_S = 30.0
_POLL_S = 0.2
_NEAR = 0.997
"""Of the primary's number: only then the tables are worth a comparison, which takes from the pair what it
needs itself."""
_STRANGERS = 100
"""States of a firewall itself, at the most: they are in its number, and are not replicated."""
_QUIET_S = 2.0
_AFTERWARDS_S = 3.0


class Method(Enum):
    """How the backup gets the states."""

    HAFW = "hafw"
    CONNTRACKD = "conntrackd"
    """`conntrackd -n`, and nobody who looks what has come of it."""


@dataclass(frozen=True, slots=True)
class Rejoin:
    """`present`: `states`, less all that the backup does not have in the end although the primary has it,
    new connections too."""

    method: Method
    states: int
    whole_s: float | None
    present: int
    opened: int
    survived: int

    def to_json(self) -> dict[str, object]:
        """The form that `--json` promises; it has these keys and no others."""
        return {
            "method": self.method.value,
            "states": self.states,
            "whole_s": None if self.whole_s is None else round(self.whole_s, 3),
            "present": self.present,
            "second": {"opened": self.opened, "survived": self.survived},
        }


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    cases = [(method, states) for states in args.states for method in args.methods]
    total = say_duration(sum(60 + states / 5_000 for _, states in cases))
    progress(f"{len(cases)} runs, about {total}; a backup that gets stuck is given {args.limit} s each time")
    runs: list[Rejoin] = []
    failed: list[dict[str, object]] = []
    for number, (method, states) in enumerate(cases, 1):
        name = f"{method.value}, {states:,} states"
        progress(ink("bold", f"{number} of {len(cases)}: {name}"))
        try:
            with start_rejoin(method, states, args.advert, progress) as trial:
                runs.append(measure_rejoin(trial, method, args.limit))
        except LabError as error:
            progress(ink("red", f"not measured: {error}"))
            failed.append({"setup": name, "error": str(error)})
            continue
        progress(say_rejoin(runs[-1], args.limit))
    lines = [draw_table(_HEAD, [_row(run, args.limit) for run in runs], ink), *say_goals(runs)]
    lines += [f"not measured: {entry['setup']}: {entry['error']}" for entry in failed]
    return {"runs": [run.to_json() for run in runs], "failed": failed}, "\n".join(lines)


@contextmanager
def start_rejoin(method: Method, states: int, advert_ms: int, progress: Progress) -> Iterator[Trial]:
    """The lab for one run. Its measured traffic is thin: the pair and the traffic share the processors."""
    agent = AgentKind.HAFW if method is Method.HAFW else AgentKind.NONE
    setup = Setup(agent, states=states, advert_interval_ms=advert_ms, rate_hz=100, push_interval_ms=100)
    with (
        room_for_states(states + NEW_HZ * _NEW_LIVE_S, progress),
        Lab.start(setup.options(), progress=progress) as lab,
    ):
        lab.wait_settled(_SETTLE_S)
        primary = require_primary(lab)
        yield Trial(lab, setup, progress, primary, other(lab, primary))


def measure_rejoin(trial: Trial, method: Method, limit_s: int) -> Rejoin:
    lab, setup, progress = trial.lab, trial.setup, trial.progress
    primary = lab.node(trial.victim)
    lab.fail(trial.survivor, POWER)
    progress(f"{trial.survivor}, the backup, has lost its power")
    put_in(primary, setup, progress)
    with ExitStack() as stack:
        traffic = stack.enter_context(start_trial_traffic(trial))
        opened = len(traffic.open(setup.connections))
        traffic.probe(setup.rate_hz)
        newcomers = stack.enter_context(start_new_connections(lab.node(CLIENT), lab.node(SERVER)))
        start = time.monotonic()
        there = stack.enter_context(open_table(primary, DEFAULT))
        whole_s, missing = measure_whole(trial, method, there, limit_s)
        lab.fail(trial.survivor, POWER)
        progress(f"{trial.survivor} has lost its power again")
        since_ns = come_back(trial, method)
        wait_ready(trial, method, since_ns, limit_s)
        traffic.mark()
        watch_traffic(trial, traffic, cause_fault(trial))
        survived = count_connections(traffic.report().connections)[0]
        made = int(str(newcomers.ask("sent")["sent"])) / (time.monotonic() - start)
    progress(f"there were {made:,.0f} new connections a second")
    present = max(0, setup.states - missing)
    return Rejoin(method, setup.states, whole_s, present, opened, survived)


def put_in(primary: Node, setup: Setup, progress: Progress) -> None:
    """The further states, while there is no backup that would have to follow."""
    clients, servers = virtual_address(DEFAULT, "client"), virtual_address(DEFAULT, "server")
    lines = state_lines(clients.network, servers.network, servers.ip)
    add_states(primary, lines, setup.states, progress)
    replicate_all(primary, setup.states, progress)


@contextmanager
def start_new_connections(client: Node, server: Node) -> Iterator[Program]:
    """To further addresses of the server."""
    targets = [str(one) for one in list(virtual_address(DEFAULT, "server").network)[_NEW_TARGETS]]
    for target in targets:
        server.run(["ip", "address", "add", f"{target}/32", "dev", "lo"])
    source = address_of(DEFAULT, CLIENT)
    program = Program(client, new_connections, str(NEW_HZ), source, str(USUAL_PORTS.udp), *targets)
    try:
        yield program
    finally:
        program.close()


# -- the backup comes back --


def come_back(trial: Trial, method: Method) -> int:
    """Returns when it began to ask for the states, CLOCK_MONOTONIC in ns."""
    node, before_ns = trial.lab.node(trial.survivor), time.monotonic_ns()
    trial.lab.heal(trial.survivor)
    trial.progress(f"{trial.survivor} comes back")
    if method is Method.HAFW:
        return find_start(node, before_ns)
    asked_ns = time.monotonic_ns()
    node.run(["conntrackd", "-n"])
    return asked_ns


def find_start(node: Node, since_ns: int) -> int:
    """When the agent has started, by its record. Raises LabError when it has written none."""
    for record in node.agent_records():
        at_ns = record.get("mono_ns")
        if record.get("event") == "started" and isinstance(at_ns, int) and at_ns >= since_ns:
            return at_ns
    raise LabError(f"the agent of {node.name} has not recorded that it started", "look at its agent.jsonl")


def measure_whole(trial: Trial, method: Method, there: Table, limit_s: int) -> tuple[float | None, int]:
    """How long until the backup has all states, None if that takes more than `limit_s`; and how many it
    lacks some seconds later."""
    before = there.list()
    since_ns = come_back(trial, method)
    with open_table(trial.lab.node(trial.survivor), DEFAULT) as here:
        comparison = Comparison(there, here, before)
        whole_s = wait_whole(comparison, there, here, since_ns, limit_s, trial.progress)
        time.sleep(_AFTERWARDS_S)  # for new connections
        comparison.find_missing()  # of what the primary had at the last look
        time.sleep(_POLL_S)  # for what is under way
        missing = len(comparison.find_missing()[0])
    trial.progress(f"{trial.survivor} lacks {missing:,} of the states that {trial.victim} has")
    return whole_s, missing


def wait_whole(
    comparison: Comparison, there: Table, here: Table, since_ns: int, limit_s: int, progress: Progress
) -> float | None:
    """Seconds from `since_ns` until the end of the listing that showed all states. It counts only if the
    next comparison, which is about newer states, finds nothing missing either. None after `limit_s`."""
    live = _Live(progress)
    found_ns: int | None = None
    while time.monotonic_ns() - since_ns < limit_s * 10**9:
        numbers = live.show(there, here)
        if numbers[1] < numbers[0] * _NEAR - _STRANGERS:
            time.sleep(_POLL_S)  # nothing reports that a table has grown
            continue
        start = time.monotonic()
        missing, at_ns = comparison.find_missing()
        if missing:
            progress(f"the tables are compared: {len(missing):,} are missing")
            found_ns = None
        elif found_ns is not None:
            return (found_ns - since_ns) / 1e9
        else:
            found_ns = at_ns
        # the pair needs the processors too
        time.sleep(max(_POLL_S, (time.monotonic() - start) / 2))
    return None


class _Live:
    """At most one line a second."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._said = progress, 0.0

    def show(self, there: Table, here: Table) -> tuple[int, int]:
        """The numbers of states of the primary and of the backup."""
        numbers = there.count(), here.count()
        if time.monotonic() - self._said > 1:
            self._said = time.monotonic()
            self._progress(f"the backup has {numbers[1]:,} states, the primary {numbers[0]:,}")
        return numbers


def wait_ready(trial: Trial, method: Method, since_ns: int, limit_s: int) -> None:
    """Until the agent says that the backup is ready; conntrackd says nothing of the kind, so: until the
    backup has got no more than new connections for a while. After `limit_s` nobody waits any longer."""
    node, until_ns = trial.lab.node(trial.survivor), since_ns + limit_s * 10**9
    most, grown = -1, time.monotonic()
    while time.monotonic_ns() < until_ns:
        if method is Method.HAFW:
            with contextlib.suppress(LabError):  # it has not been written yet
                if node.read_text(READINESS).strip() == "0":
                    trial.progress(f"{node.name} says that it is ready")
                    return
            time.sleep(_POLL_S / 10)  # a file in another mount namespace gives no notice
            continue
        now = count_states(node)
        if now > most + 2 * _QUIET_S * NEW_HZ:
            most, grown = now, time.monotonic()
        elif time.monotonic() - grown > _QUIET_S:
            trial.progress(f"{node.name} gets no more, it has {now:,} states")
            return
        time.sleep(_POLL_S)
    trial.progress(f"{node.name} is not ready after {limit_s} s")


# -- what is said of it --


def say_rejoin(run: Rejoin, limit_s: int) -> str:
    whole = f"not whole within {limit_s} s" if run.whole_s is None else f"whole after {run.whole_s:.1f} s"
    return (
        f"{whole}, {run.present:,} of {run.states:,} states;"
        f" {run.survived} of {run.opened} survived the second failover"
    )


def _row(run: Rejoin, limit_s: int) -> list[str]:
    whole = f"not within {limit_s}" if run.whole_s is None else f"{run.whole_s:.1f}"
    counts = f"{run.present:,}", f"{run.survived} of {run.opened}"
    return [run.method.value, f"{run.states:,}", whole, *counts]


def say_goals(runs: Sequence[Rejoin]) -> list[str]:
    """The figures that the project has set itself, as far as these runs tell them."""
    ours = [run for run in runs if run.method is Method.HAFW]
    if not ours:
        return []
    good = sum(run.present == run.states and run.survived == run.opened for run in ours)
    lines = ["", f"hafw had all states, and lost no connection, in {good} of {len(ours)} runs (goal: all)"]
    for run in ours:
        if run.states in _GOALS_S and run.whole_s is not None:
            goal = _GOALS_S[run.states]
            lines.append(f"hafw, {run.states:,} states: whole after {run.whole_s:.1f} s (goal: {goal} s)")
    return lines
