# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench daemons`: each daemon of the pair is killed, or stopped for a minute, under live connections. Is
the pair whole again by itself, and what did both nodes say meanwhile?"""

import argparse
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hafw_lab.arguments.advert import choose_advert_ms
from hafw_lab.arguments.machines import choose_machines
from hafw_lab.bench.failover import say_duration
from hafw_lab.client.lab import Lab
from hafw_lab.errors import LabError
from hafw_lab.measure.blows import CALM_LASTS_S, Blow, Daemon, Place, Struck, require_calm, strike
from hafw_lab.measure.failover import require_primary
from hafw_lab.measure.result import Setup
from hafw_lab.model.topology import DEFAULT
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table, say_spread
from hafw_lab.spoken import Ink
from hafw_lab.vm.accelerator import find_obstacle

SIGNALS = {"KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}
_EACH_S = 25.0
_HEAD = ("daemon", "on the", "signal", "n", "whole", "survived", "calm after s", "it said", "peer said")


def plan_blows(
    daemons: Sequence[Daemon], places: Sequence[Place], signals: Sequence[signal.Signals], rounds: int
) -> list[Blow]:
    """Round by round, so that no daemon is struck twice in a row."""
    return [
        Blow(daemon, place, number, one)
        for one in range(1, rounds + 1)
        for number in signals
        for place in places
        for daemon in daemons
    ]


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    names = [node.name for node in DEFAULT.nodes if node.name != args.host]
    machines = choose_machines(args.vm, args.release, names)
    advert_ms = choose_advert_ms(args.advert, machines, DEFAULT, find_obstacle(), progress)
    setup = Setup(advert_interval_ms=advert_ms, machines=tuple(machines.items()), host=args.host)
    blows = plan_blows(args.daemons, args.nodes, args.signals, args.rounds)
    stops = sum(blow.signal is signal.SIGSTOP for blow in blows)
    total = say_duration(len(blows) * _EACH_S + stops * args.stop_seconds)
    progress(f"{len(blows)} blows, about {total}")
    runs: list[Struck] = []
    errors: list[str] = []

    def take(run: Struck) -> None:
        runs.append(run)
        color = "red" if run.calm_s is None else "green"
        progress(ink(color, f"{len(runs)} of {len(blows)}: {say_struck(run)}"))

    left = deque(blows)
    while left:
        there = len(left)
        try:
            # after a blow that leaves something behind a new one: each blow is to a pair that is whole
            with start_pair(setup, args.limit, progress) as lab:
                strike_all(lab, left, args.stop_seconds, args.limit, take)
        except LabError as error:
            progress(ink("red", f"not measured: {error}"))
            errors.append(str(error))
            if len(left) == there:
                break  # there is no pair
    failed = [{"setup": run.blow.describe(), "error": run.unrest} for run in runs if run.calm_s is None]
    failed += [{"setup": setup.describe(), "error": error} for error in errors]
    lines = [draw_table(_HEAD, tabulate(runs), ink)]
    lines += [f"not whole again: {say_struck(run)}" for run in runs if run.calm_s is None]
    lines += [f"not measured: {error}" for error in errors]
    return {"runs": [run.to_json() for run in runs], "failed": failed}, "\n".join(lines)


def strike_all(
    lab: Lab, left: deque[Blow], stop_s: int, limit_s: int, take: Callable[[Struck], None]
) -> None:
    """Until none is left, or the pair is not whole again. Raises LabError for one that is not measured."""
    while left:
        blow = left.popleft()
        try:
            run = strike(lab, blow, stop_s, limit_s * lab.patience)
        except LabError as error:
            raise LabError(f"{blow.describe()}: {error}", error.hint) from error
        take(run)
        if run.calm_s is None:
            return


@contextmanager
def start_pair(setup: Setup, limit_s: int, progress: Progress) -> Iterator[Lab]:
    """Calm; its daemons are started again as systemd does."""
    with Lab.start(replace(setup.options(), restart=True), progress=progress) as lab:
        require_calm(lab, limit_s * lab.patience)
        progress(f"{require_primary(lab)} is primary, and the pair has been calm for {CALM_LASTS_S:g} s")
        yield lab


def say_struck(run: Struck) -> str:
    calm = f"not whole: {run.unrest}" if run.calm_s is None else f"calm after {run.calm_s:.1f} s"
    own, peer = (", ".join(words) or "nothing" for words in (run.own, run.peer))
    return (
        f"{run.blow.describe()}, {run.node}: {run.survived} of {run.opened} survived, {calm};"
        f" it said {own}; its peer {peer}"
    )


def tabulate(runs: Sequence[Struck]) -> list[list[str]]:
    """One for each kind of blow, in the order of the runs."""
    rows = []
    for kind in dict.fromkeys(_kind(run) for run in runs):
        group = [run for run in runs if _kind(run) == kind]
        count = len(group)
        rows.append(
            [
                *kind,
                str(count),
                str(sum(run.calm_s is not None for run in group)),
                f"{sum(run.survived for run in group)} of {sum(run.opened for run in group)}",
                say_spread([run.calm_s for run in group], digits=1),
                f"{sum(bool(run.own) for run in group)} of {count}",
                f"{sum(bool(run.peer) for run in group)} of {count}",
            ]
        )
    return rows


def _kind(run: Struck) -> tuple[str, str, str]:
    return run.blow.daemon.value, run.blow.place.value, run.blow.signal.name.removeprefix("SIG")
