# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench handover`: planned handovers in one lab, and how much of each is the agent's; the stock script
beside it."""

import argparse
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.bench import command_timer
from hafw_lab.bench.failover import say_duration
from hafw_lab.client.lab import Lab
from hafw_lab.client.node import Node
from hafw_lab.client.records import parse_records
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import other, start_lab
from hafw_lab.measure.result import Setup
from hafw_lab.measure.timeline import agent_figures
from hafw_lab.model.fault import Fault, FaultKind
from hafw_lab.model.options import AgentKind
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table, percentile
from hafw_lab.spoken import Ink

STOCK_HOOK = "/etc/conntrackd/primary-backup.sh"
"""Where services.py puts Debian's script."""
_FAULT = Fault(FaultKind.LINK, "eth1")
"""keepalived gives up both interfaces and says so to its peer; the link is repaired at once, so the next can
follow. Stopping keepalived does the same and takes it two seconds each time, because of its D-Bus thread."""
_SCRIPT_RUNS = 20
_PYTHON = "/usr/bin/python3"
_TIMER = Path(command_timer.__file__)


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    setup = Setup(sync=SyncMode(args.sync), advert_interval_ms=args.advert)
    progress(f"{args.count} handovers, about {say_duration(args.count * 2.0 + 10)}")
    with start_lab(setup, progress) as lab:
        shares = [hand_over(lab, number, args.count, progress) for number in range(1, args.count + 1)]
    stock = Setup(agent=AgentKind.STOCK, sync=setup.sync, advert_interval_ms=args.advert)
    with start_lab(stock, progress) as lab:
        primary = lab.wait_settled(30)
        progress(f"{_SCRIPT_RUNS} runs of the stock script with an empty table")
        script = time_commands(lab.node(primary), [[STOCK_HOOK, "primary"]], _SCRIPT_RUNS)[0]
    rows = [make_row("hafw, first notice to gate open", shares), make_row("stock script, primary", script)]
    head = ("", "n", "median ms", "p95 ms", "least ms", "most ms")
    return {"handover_ms": shares, "script_ms": script, "failed": []}, draw_table(head, rows, ink)


def make_row(name: str, values: Sequence[float]) -> list[str]:
    figures = (median(values), percentile(values, 0.95), min(values), max(values))
    return [name, str(len(values)), *(f"{value:.1f}" for value in figures)]


def hand_over(lab: Lab, number: int, count: int, progress: Progress) -> float:
    """One handover and the return of the node that gave up; the agent's share in ms."""
    primary = lab.wait_settled(30)
    heir = other(lab, primary)
    start_ns = lab.fail(primary, _FAULT)
    lab.wait_primary(heir, 10)
    share_ms = read_share(lab.node(heir), start_ns)
    lab.heal(primary)
    lab.wait_settled(30)
    progress(f"{number} of {count}: {primary} -> {heir}, {share_ms:.1f} ms")
    return share_ms


def read_share(node: Node, since_ns: int) -> float:
    """Wait for the record of the transition. Raises LabError when the agent writes none."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(LabError):  # not written yet
            figures = agent_figures(parse_records(node.read_text(Paths().log_file)), since_ns)
            if figures.notified_to_open_ms is not None:
                return figures.notified_to_open_ms
        time.sleep(0.05)  # a file in another mount namespace gives no notice
    raise LabError(f"the agent of {node.name} has recorded no handover", "look at its agent.jsonl")


def time_commands(node: Node, commands: Sequence[Sequence[str]], count: int) -> list[list[float]]:
    """Run each command `count` times inside the node, taking turns; milliseconds of each run."""
    argv = [_PYTHON, "-I", "-c", _TIMER.read_text(encoding="utf-8"), str(count)]
    done = node.run(argv, input=json.dumps(commands), timeout_s=30 + 2 * count * len(commands))
    times: list[list[float]] = json.loads(done.stdout)
    return times
