# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of one failover as one HTML page that needs nothing else: `demo --report DIR`. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from hafw_lab.measure.result import FailoverResult
from hafw_lab.model.topology import Topology
from hafw_lab.report import chart
from hafw_lab.report.text import say_verdict
from hafw_lab.report.topology import LiveNode, to_svg

_STYLE = """
:root{color-scheme:light}body{font:15px/1.5 sans-serif;color:#1f2328;max-width:62rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}svg{width:100%;height:auto}
.verdict{border-left:6px solid;padding:.6rem 1rem;font-size:1.1rem;background:#f6f8fa}
.ok{border-color:#1a7f37}.bad{border-color:#cf222e}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #d0d7de}
th{white-space:nowrap}td.n{text-align:right;font-variant-numeric:tabular-nums}.mark{text-align:center}
.dead{color:#cf222e;font-weight:bold}
pre{background:#f6f8fa;padding:.8rem;overflow-x:auto}.note{color:#57606a}
"""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reader needs to judge and repeat it. `versions` are (what, version)."""

    date: str
    command: str
    versions: tuple[tuple[str, str], ...]


def to_html(result: FailoverResult, topology: Topology, around: Surroundings, nodes: Sequence[str]) -> str:
    """`nodes` are the lanes of the timeline, in their order."""
    ok = result.nothing_lost and not result.problems
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>hafw: a failover</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>A failover, {escape(around.date)}</h1>",
        f'<p class="verdict {"ok" if ok else "bad"}">{escape(say_verdict(result))}</p>',
        *(f'<p class="note">Take this with care: {escape(doubt)}.</p>' for doubt in result.doubts),
        f"<p>{escape(f'{result.setup.describe()}; {result.setup.fault} of {result.victim}')}.</p>",
        f"<h2>The failover ({result.setup.rate_hz} probes a second)</h2>",
        chart.to_svg(result),
        "<h2>The pair, after the fault</h2>",
        to_svg(topology, _after(result, topology)),
        "<h2>Connections</h2>",
        _table(("before the fault", "after it", "reset", "longest stall"), [_connections(result)]),
        "<h2>What happened</h2>",
        *_timeline(result, nodes),
        "<h2>Made with</h2>",
        _table(("what", "version"), around.versions),
        f"<h2>To repeat it</h2><pre>{escape(around.command)}</pre>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _after(result: FailoverResult, topology: Topology) -> dict[str, LiveNode]:
    live = {node.name: LiveNode() for node in topology.nodes}
    fault = result.setup.fault
    vips = tuple(str(vip.ip) for vip in topology.vips)
    live[result.survivor] = LiveNode(role="primary", vips=vips)
    if fault.link is not None:
        live[result.victim] = LiveNode(role="fault", links_down=frozenset({fault.link}))
    else:
        live[result.victim] = LiveNode(alive=False)
    return live


def _connections(result: FailoverResult) -> tuple[str, ...]:
    stall = "none survived" if result.longest_stall_ms is None else f"{result.longest_stall_ms:.0f} ms"
    return f"{result.opened} open", f"{result.survived} continue", str(result.reset), stall


# -- tables ------------------------------------------------------------


def _timeline(result: FailoverResult, nodes: Sequence[str]) -> Iterator[str]:
    yield "<table><tr><th>ms</th>" + "".join(f'<th class="mark">{escape(one)}</th>' for one in nodes)
    yield "<th>what</th></tr>"
    for moment in result.timeline:
        yield _moment(moment, nodes, result.victim)
    yield "</table>"


def _moment(moment: Mapping[str, object], nodes: Sequence[str], victim: str) -> str:
    at_ms = float(str(moment["t_ms"]))
    fell = at_ms == 0 and moment["node"] == victim
    mark = '<span class="dead">✕</span>' if fell else "●"
    lanes = "".join(f'<td class="mark">{mark if node == moment["node"] else ""}</td>' for node in nodes)
    return f'<tr><td class="n">{at_ms:.1f}</td>{lanes}<td>{escape(str(moment["what"]))}</td></tr>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(one)}</th>" for one in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
