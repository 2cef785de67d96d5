# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench flap`: a link of the primary flaps; measured is how long after the last flap all is quiet."""

import argparse
import contextlib
import time

from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.bench.failover import say_duration
from hafw_lab.bench.handover import STOCK_HOOK
from hafw_lab.client.lab import Lab
from hafw_lab.client.records import parse_records
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import (
    CLIENT,
    SERVER,
    address_of,
    other,
    put_states,
    require_primary,
    start_lab,
)
from hafw_lab.measure.result import Setup, count_connections
from hafw_lab.measure.timeline import Moment, agent_moments, keepalived_moments
from hafw_lab.model.options import AgentKind
from hafw_lab.model.topology import DEFAULT
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table
from hafw_lab.spoken import Ink
from hafw_lab.traffic.session import start_traffic

_LINK = "eth1"
_QUIET_NS = 5_000_000_000
_LONGEST_NS = 300_000_000_000
_HEAD = ("agent", "sync", "states", "settled after s", "survived", "reset", "primary at the end")


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    each_s = 20 + args.seconds + args.states / 12_000
    total = say_duration(len(args.agents) * each_s)
    progress(f"{len(args.agents)} runs, about {total} (with the stock script perhaps minutes more)")
    runs: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    for agent in args.agents:
        setup = Setup(agent, SyncMode(args.sync), states=args.states, advert_interval_ms=args.advert)
        progress(ink("bold", setup.describe()))
        try:
            with start_lab(setup, progress) as lab:
                runs.append(measure_one(lab, setup, args.seconds, args.rate, progress))
        except LabError as error:
            progress(ink("red", f"not measured: {error}"))
            failed.append({"setup": setup.describe(), "error": str(error)})
    table = draw_table(_HEAD, [_row(run) for run in runs], ink)
    return {"runs": runs, "failed": failed}, table


def _row(run: dict[str, object]) -> list[str]:
    settled = "not within 300" if run["settled_s"] is None else f"{float(str(run['settled_s'])):.2f}"
    words = [run["agent"], run["sync"], f"{run['states']:,}", settled]
    return [
        str(word) for word in (*words, f"{run['survived']} of {run['opened']}", run["reset"], run["primary"])
    ]


def measure_one(lab: Lab, setup: Setup, seconds: int, rate_hz: int, progress: Progress) -> dict[str, object]:
    lab.wait_settled(30)
    primary = require_primary(lab)
    if setup.states:
        put_states(lab, setup, primary, other(lab, primary), progress)
    with start_traffic(lab.node(CLIENT), lab.node(SERVER), address_of(DEFAULT, SERVER)) as traffic:
        opened = len(traffic.open(setup.connections))
        flapped_ns = flap(lab, primary, seconds, rate_hz, progress)
        last = wait_quiet(lab, setup.agent, flapped_ns, progress)
        report = traffic.report()
    survived, reset, _ = count_connections(report.connections)
    return {
        "agent": setup.agent.value,
        "sync": setup.sync.value,
        "states": setup.states,
        "advert_interval_ms": setup.advert_interval_ms,
        "rate_hz": rate_hz,
        "seconds": seconds,
        "settled_s": None if last is None else round((last.at_ns - flapped_ns) / 1e9, 3),
        "last_change": None if last is None else f"{last.node} {last.what}".strip(),
        "opened": opened,
        "survived": survived,
        "reset": reset,
        "primary": lab.primary() or "nobody",
    }


def flap(lab: Lab, node: str, seconds: int, rate_hz: int, progress: Progress) -> int:
    """Take the link down and up `rate_hz` times a second; returns the moment of the last up."""
    half_s, start, up_ns = 0.5 / rate_hz, time.monotonic(), time.monotonic_ns()
    for number in range(seconds * rate_hz):
        if number % rate_hz == 0:
            progress(f"{_LINK} of {node} flaps {rate_hz} times a second; primary: {lab.primary() or 'none'}")
        for step, up in enumerate((False, True)):
            due = start + (2 * number + step) * half_s
            time.sleep(max(0.0, due - time.monotonic()))  # the rate is the measurement
            up_ns = lab.set_link(node, _LINK, up=up)
    return up_ns


def wait_quiet(lab: Lab, agent: AgentKind, since_ns: int, progress: Progress) -> Moment | None:
    """The last change of role or running script; None if it does not become quiet."""
    last, said = Moment(since_ns, "", "the last flap"), 0.0
    while (now_ns := time.monotonic_ns()) - since_ns < _LONGEST_NS:
        scripts = 0 if agent is AgentKind.HAFW else count_scripts(lab)
        if scripts:
            last = Moment(now_ns, "", f"{scripts} copies of the stock script run")
        elif lab.primary() is None:
            last = Moment(now_ns, "", "no node holds all virtual addresses alone")
        last = max(last, *find_changes(lab))
        if now_ns - last.at_ns > _QUIET_NS:
            return last
        if time.monotonic() - said > 1:
            said = time.monotonic()
            progress(f"primary: {lab.primary() or 'none'}, {scripts} copies of the stock script run")
        time.sleep(0.2)  # scripts and logs give no notice
    return None


def count_scripts(lab: Lab) -> int:
    running = (lab.node(name).run(["pgrep", "-c", "-f", STOCK_HOOK], check=False) for name in lab.firewalls)
    return sum(int(done.stdout or 0) for done in running)


def find_changes(lab: Lab) -> list[Moment]:
    """When keepalived or an agent changed its role; there is at least keepalived's start."""
    found: list[Moment] = []
    for name in lab.firewalls:
        node = lab.node(name)
        found += keepalived_moments(node.daemon_log(), name)
        with contextlib.suppress(LabError):  # a stock node has no records
            records = parse_records(node.read_text(Paths().log_file))
            found += agent_moments((one for one in records if one.get("event") == "transition"), name)
    return found
