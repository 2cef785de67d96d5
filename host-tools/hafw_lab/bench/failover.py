# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench failover`: the primary loses its power, with each agent, mode and number of states, side by
side."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import median

from agent.model.pair import SyncMode
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import run_failover, start_lab
from hafw_lab.measure.result import FailoverResult, Setup
from hafw_lab.model.options import AgentKind
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table, say_spread
from hafw_lab.spoken import Ink

HEAD = ("agent", "sync", "states", "survived", "reset", "stall ms", "blackout ms", "open ms", "commit ms")
_DIRECT_MARGIN_MS = 30


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    setups = list(
        plan_setups(args.agents, args.sync, args.states, args.runs, advert_interval_ms=args.advert)
    )
    progress(f"{len(setups)} failovers, about {say_duration(sum(map(estimate_s, setups)))}")
    results: list[FailoverResult] = []
    failed: list[dict[str, object]] = []
    for number, setup in enumerate(setups, 1):
        progress(ink("bold", f"{number} of {len(setups)}: {setup.describe()}"))
        try:
            # What the stock script leaves behind takes minutes to calm down; its figures are complete
            # before.
            heal = setup.agent is AgentKind.HAFW
            with start_lab(setup, progress) as lab:
                result = run_failover(lab, setup, _quiet, heal=heal)
        except LabError as error:
            progress(ink("red", f"not measured: {error}"))
            failed.append({"setup": setup.describe(), "error": str(error)})
            continue
        results.append(result)
        progress(say_result(result))
        for remark in (*result.problems, *result.doubts):
            progress(ink("yellow", f"but: {remark}"))
    found: dict[str, object] = {"runs": [result.to_json() for result in results], "failed": failed}
    parts = [draw_table(HEAD, make_rows(results), ink), *compare(results)]
    return found, "\n".join(
        [*parts, *(f"not measured: {entry['setup']}: {entry['error']}" for entry in failed)]
    )


def _quiet(_: str) -> None:
    """The steps of a single run are of no interest in a series."""


def plan_setups(
    agents: Sequence[AgentKind],
    modes: Sequence[SyncMode],
    states: Sequence[int],
    runs: int,
    *,
    advert_interval_ms: int,
) -> Iterator[Setup]:
    """Agents alternate in the innermost place, so that changes on the machine affect all of them
    alike."""
    for count in states:
        for sync in modes:
            for _ in range(runs):
                for agent in agents:
                    yield Setup(agent, sync, states=count, advert_interval_ms=advert_interval_ms)


def estimate_s(setup: Setup) -> float:
    """By experience on two slow cores."""
    each = 7_000 if setup.agent is AgentKind.HAFW else 10_000
    return 5 + 4 * (setup.agent is AgentKind.HAFW) + setup.states / each + setup.advert_interval_ms / 100


def say_duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def say_result(result: FailoverResult) -> str:
    return f"{result.survived} of {result.opened} survived, {result.blackout_ms:.0f} ms of silence"


def make_rows(results: Sequence[FailoverResult]) -> list[list[str]]:
    """One row for each setup, in the order of the runs: medians and ranges."""
    return [_row(setup, group) for setup, group in group_by_setup(results)]


def group_by_setup(results: Sequence[FailoverResult]) -> list[tuple[Setup, list[FailoverResult]]]:
    order = list(dict.fromkeys(result.setup for result in results))
    ranked = sorted(results, key=lambda result: order.index(result.setup))
    return [(setup, list(group)) for setup, group in groupby(ranked, key=lambda result: result.setup)]


def _row(setup: Setup, group: Sequence[FailoverResult]) -> list[str]:
    return [
        setup.agent.value,
        setup.sync.value,
        f"{setup.states:,}",
        _say_counts([result.survived for result in group], group[0].opened),
        _say_counts([result.reset for result in group], None),
        say_spread([result.longest_stall_ms for result in group]),
        say_spread([result.blackout_ms for result in group]),
        say_spread([result.agent.notified_to_open_ms for result in group], digits=1),
        say_spread([result.agent.commit_ms for result in group], digits=1),
    ]


def _say_counts(counts: Sequence[int], whole: int | None) -> str:
    text = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}..{max(counts)}"
    return text if whole is None else f"{text} of {whole}"


def compare(results: Sequence[FailoverResult]) -> list[str]:
    """The figures that the project has set itself, as far as these runs tell them."""
    ours = [result for result in results if result.setup.agent is AgentKind.HAFW]
    if not ours:
        return []
    lost = sum(not result.nothing_lost for result in ours)
    lines = ["", f"hafw lost a connection in {lost} of {len(ours)} runs (goal: 0)"]
    direct = {
        setup.states: median(result.blackout_ms for result in group)
        for setup, group in group_by_setup(ours)
        if setup.sync is SyncMode.DIRECT
    }
    bound_ms = ours[0].detection_bound_ms
    for states, blackout_ms in direct.items():
        goal_ms = bound_ms + _DIRECT_MARGIN_MS
        lines.append(
            f"direct, {states:,} states: median silence {blackout_ms:.0f} ms (goal: {goal_ms:.0f} ms)"
        )
    if len(direct) > 1:
        least, most = min(direct), max(direct)
        ratio = direct[most] / direct[least]
        lines.append(f"direct, {most:,} states against {least:,}: {ratio:.2f} times the silence (goal: 1.2)")
    shares = [
        result.agent.notified_to_open_ms / result.agent.commit_ms
        for result in ours
        if result.setup.sync is SyncMode.CACHE
        and result.agent.notified_to_open_ms
        and result.agent.commit_ms
    ]
    if shares:
        lines.append(
            f"cache: gate open within {say_spread(shares, digits=2)} of the commit's time (goal: 1.1)"
        )
    return lines
