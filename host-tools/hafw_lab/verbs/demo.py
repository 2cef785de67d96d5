# SPDX-License-Identifier: GPL-2.0-or-later
"""`./run demo`: a firewall pair, live connections, and the primary's power is cut. Everything is shown as it
happens."""

import argparse
import json
from collections.abc import Collection
from pathlib import Path

from agent.arguments import parse_path
from agent.model.pair import SyncMode
from hafw_lab.arguments.advert import add_advert_argument, choose_advert_ms
from hafw_lab.arguments.common import add_sync_argument, check_writable, parse_count
from hafw_lab.arguments.machines import add_machine_arguments, choose_machines
from hafw_lab.measure.failover import CLIENT, SERVER, run_failover, start_lab
from hafw_lab.measure.result import FailoverResult, Setup
from hafw_lab.model.options import AgentKind
from hafw_lab.model.topology import DEFAULT
from hafw_lab.report import chart
from hafw_lab.report.page import to_html
from hafw_lab.report.provenance import look_around
from hafw_lab.report.text import draw_timeline, say_verdict
from hafw_lab.spoken import choose_ink, show_painted, start_clock
from hafw_lab.vm.accelerator import find_obstacle

CALM_S = 3.0
STATES = 2000
RATE_HZ, PUSH_MS = 1000, 10
MACHINE_RATE_HZ, MACHINE_PUSH_MS = 200, 50
"""What a machine without KVM can forward beside everything else that it does."""
END_RATE_HZ, END_PUSH_MS = 50, 100
"""What one can send and receive itself."""
_PAGE, _DRAWING = "index.html", "failover.svg"
_PICTURE = """\
                       +------ fw-1 ------+
   client ---- br1 ----+         | br2    +---- br0 ---- omarine
                       +------ fw-2 ------+
   Both firewalls share two virtual addresses; the primary holds them and forwards.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = [kind.value for kind in AgentKind]
    parser.add_argument(
        "--agent", choices=kinds, default=kinds[0], help="who acts when the pair fails over (default: hafw)"
    )
    add_sync_argument(parser)
    parser.add_argument(
        "--states", type=parse_count, default=STATES, metavar="N", help=f"further states (default: {STATES})"
    )
    add_advert_argument(parser, None)
    add_machine_arguments(parser)
    parser.add_argument("--json", type=parse_path, metavar="FILE", help="also write the result to FILE")
    parser.add_argument(
        "--report",
        type=parse_path,
        metavar="DIR",
        help=f"make this directory, with a page of pictures: {_PAGE}, and the first of them: {_DRAWING}",
    )


def run(args: argparse.Namespace) -> int:
    """0 if no connection was lost and the pair is well afterwards, else 1."""
    ink = choose_ink()
    progress = start_clock(ink)
    names = [node.name for node in DEFAULT.nodes if node.name != args.host]
    machines = choose_machines(args.vm, args.release, names)
    rate_hz, push_ms = choose_pace(machines)
    setup = Setup(
        agent=AgentKind(args.agent),
        sync=SyncMode(args.sync),
        states=args.states,
        advert_interval_ms=choose_advert_ms(args.advert, machines, DEFAULT, find_obstacle(), progress),
        machines=tuple(machines.items()),
        host=args.host,
        rate_hz=rate_hz,
        push_interval_ms=push_ms,
    )
    check_writable(args.json)
    page = prepare_page(args.report)
    show_painted(_PICTURE)
    with start_lab(setup, progress) as lab:
        result = run_failover(lab, setup, progress, calm_s=CALM_S)
        lanes = (CLIENT, *sorted((result.victim, result.survivor)))
        if page is not None:
            page.write_text(to_html(result, DEFAULT, look_around(lab), lanes), encoding="utf-8")
            page.with_name(_DRAWING).write_text(chart.to_svg(result), encoding="utf-8")
    show_painted(f"\n{draw_timeline(result.timeline, lanes, result.victim, ink)}\n")
    well = result.nothing_lost and not result.problems
    show_painted(ink("green" if well else "red", say_verdict(result)))
    for doubt in result.doubts:
        show_painted(ink("yellow", f"Take this with care: {doubt}."))
    if page is not None:
        show_painted(f"The report is in {page}.")
    if args.json:
        write_json(args.json, result)
    return 0 if well else 1


def choose_pace(machines: Collection[str]) -> tuple[int, int]:
    """Probes a second, and milliseconds between two messages of a connection."""
    if not machines:
        return RATE_HZ, PUSH_MS
    if CLIENT in machines or SERVER in machines:
        return END_RATE_HZ, END_PUSH_MS
    return MACHINE_RATE_HZ, MACHINE_PUSH_MS


def prepare_page(directory: Path | None) -> Path | None:
    """The page in its directory, which is made. Raises LabError before the work instead of after it."""
    if directory is None:
        return None
    page = directory / _PAGE
    check_writable(page, "--report", make_directory=True)
    return page


def write_json(path: Path, result: FailoverResult) -> None:
    path.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
