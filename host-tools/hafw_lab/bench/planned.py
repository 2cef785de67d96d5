# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench handover --planned`: `hafw handover` there and back under traffic, and what was lost."""

import argparse
from collections.abc import Sequence

from agent.model.pair import SyncMode
from hafw_lab.bench.failover import say_duration
from hafw_lab.client.lab import Lab
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import CLIENT, SERVER, address_of, other, put_states, start_lab
from hafw_lab.measure.planned import PlannedRun, measure_handover, wait_calm
from hafw_lab.measure.result import Setup
from hafw_lab.model.topology import DEFAULT
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table, say_spread
from hafw_lab.spoken import Ink
from hafw_lab.traffic.session import start_traffic

RATE_HZ = 1000
"""Of UDP there and back, and of TCP in each direction."""
CONNECTIONS = 1
_HEAD = ("states", "from", "n", "tcp lost", "udp lost", "of each", "silence ms", "without addresses ms")
_EACH_S = 9.0


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    total_s = sum(20 + states / 7_000 + 2 * args.runs * _EACH_S for states in args.states)
    progress(f"{2 * args.runs * len(args.states)} handovers, about {say_duration(total_s)}")
    runs: list[tuple[int, PlannedRun]] = []
    failed: list[dict[str, object]] = []
    for states in args.states:
        setup = Setup(sync=SyncMode.DIRECT, states=states, advert_interval_ms=args.advert)
        progress(ink("bold", setup.describe()))
        try:
            with start_lab(setup, progress) as lab:
                for run in measure_all(lab, setup, 2 * args.runs, progress):
                    runs.append((states, run))
        except LabError as error:
            progress(ink("red", f"not measured: {error}"))
            failed.append({"setup": setup.describe(), "error": str(error)})
    found: dict[str, object] = {
        "runs": [{"states": states, **run.to_json()} for states, run in runs],
        "failed": failed,
    }
    lost = sum(bool(run.tcp_lost or run.udp_lost) for _, run in runs)
    table = draw_table(_HEAD, rows_of(runs), ink)
    return found, f"{table}\n\na packet was lost in {lost} of {len(runs)} handovers (goal: 0)"


def measure_all(lab: Lab, setup: Setup, count: int, progress: Progress) -> list[PlannedRun]:
    primary = lab.wait_settled(30 * lab.patience)
    if setup.states:
        put_states(lab, setup, primary, other(lab, primary), progress)
    runs = []
    interval_ms = 1000 // RATE_HZ
    with start_traffic(
        lab.node(CLIENT), lab.node(SERVER), address_of(DEFAULT, SERVER), push_interval_ms=interval_ms
    ) as traffic:
        if len(traffic.open(CONNECTIONS)) != CONNECTIONS:
            raise LabError("no connection comes up through the pair")
        traffic.talk(interval_ms=interval_ms)
        traffic.probe(RATE_HZ)
        for number in range(1, count + 1):
            wait_calm(lab, 60 + setup.states / 2_000)
            run = measure_handover(lab, traffic)
            runs.append(run)
            progress(
                f"{number} of {count}: {run.from_node} -> {run.to_node} in {run.seconds:.2f} s, "
                f"lost: {run.tcp_lost} TCP, {run.udp_lost} UDP of {run.probes}"
            )
    return runs


def rows_of(runs: Sequence[tuple[int, PlannedRun]]) -> list[list[str]]:
    rows = []
    for key in dict.fromkeys((states, run.from_node) for states, run in runs):
        group = [run for states, run in runs if (states, run.from_node) == key]
        rows.append(
            [
                f"{key[0]:,}",
                key[1],
                str(len(group)),
                str(sum(run.tcp_lost for run in group)),
                str(sum(run.udp_lost for run in group)),
                say_spread([float(run.probes) for run in group]),
                say_spread([run.silence_ms for run in group], digits=1),
                say_spread([run.gap_ms for run in group]),
            ]
        )
    return rows
