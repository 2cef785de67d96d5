# SPDX-License-Identifier: GPL-2.0-or-later
"""One failover as one picture: who was primary, which probes were answered, what the connections received,
all over the same milliseconds. An SVG that needs nothing else. Pure.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from hafw_lab.measure.result import FailoverResult
from hafw_lab.measure.series import BIN_MS, Series
from hafw_lab.model.fault import POWER

_WIDTH, _HEIGHT = 900, 490
_LEFT, _RIGHT = 76, 16
_LANES, _LANE, _BAR = 92, 34, 24
_PROBES, _RATES, _PLOT = 204, 344, 90
"""Where the lanes and the plots begin, and how tall they are."""
_LETTER = 7
_ROUND = (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10)
_STEPS = (100, 200, 500, 1000, 2000, 5000, 10_000, 60_000)
_STYLE = (
    ".failover{font:13px sans-serif}.failover text{fill:#1f2328}"
    ".failover .title{font-size:17px;font-weight:bold}.failover .small{font-size:12px;fill:#57606a}"
    ".failover .end{text-anchor:end}.failover .middle{text-anchor:middle}"
    ".failover .paper{fill:#ffffff}.failover .grid{stroke:#d8dee4}.failover .axis{stroke:#8c959f}"
    ".failover .primary{fill:#aceebb;stroke:#1a7f37}.failover .backup{fill:#ddf4ff;stroke:#54aeff}"
    ".failover .between{fill:#fae17d;stroke:#9a6700}.failover .failed{fill:#ffebe9;stroke:#cf222e}"
    ".failover .answered{fill:#218bff}.failover .lost{fill:#cf222e}"
    ".failover .rate{fill:none;stroke:#1a7f37;stroke-width:2;stroke-linejoin:round}"
    ".failover .moment{stroke:#1f2328;stroke-dasharray:4 3}"
)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Of the time, which all parts share."""

    from_ms: float
    to_ms: float

    def x(self, t_ms: float) -> float:
        share = (t_ms - self.from_ms) / (self.to_ms - self.from_ms)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> Iterator[float]:
        span = self.to_ms - self.from_ms
        step = next((step for step in _STEPS if span / step <= 12), span)
        t = -(-self.from_ms // step) * step
        while t <= self.to_ms:
            yield t
            t += step


@dataclass(frozen=True, slots=True)
class _Span:
    """What a node was, and from when to when."""

    from_ms: float
    to_ms: float
    what: str
    label: str


def to_svg(result: FailoverResult) -> str:
    scale = _choose_scale(result.series)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="failover" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' role="img" aria-label="a failover over time"><style>{_STYLE}</style>',
        f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>',
        *_draw_head(result),
        *_draw_time(scale),
        *_draw_lane(scale, 0, result.victim, _victim_spans(result, scale)),
        *_draw_lane(scale, 1, result.survivor, _survivor_spans(result, scale)),
        *_draw_probes(scale, result.series),
        *_draw_rates(scale, result.series),
        *_draw_moments(scale, result),
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"


def _choose_scale(series: Series) -> _Scale:
    times = [one.t_ms for one in series.probes] + [one.t_ms for one in series.rates]
    return _Scale(min(times, default=-500), max(times, default=1000) + BIN_MS)


def _draw_head(result: FailoverResult) -> Iterator[str]:
    survived = f"{result.survived} of {result.opened} connections survive"
    silence = f"the client's probe is not answered for {result.blackout_ms:.0f} ms"
    bound = f"detection alone may take {result.detection_bound_ms:.0f} ms"
    yield _text(_LEFT, 28, f"{survived} the loss of {result.victim}", "title")
    yield _text(_LEFT, 50, f"{silence}; {bound} ({result.setup.describe()})", "small")


def _draw_time(scale: _Scale) -> Iterator[str]:
    base = _RATES + _PLOT
    for t in scale.ticks():
        yield _line(scale.x(t), _LANES, scale.x(t), base, "grid")
        yield _text(scale.x(t), base + 18, f"{t:g}", "small middle")
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, base + 40, "milliseconds after the fault", "small middle")


# -- who was what ------------------------------------------------------------


def _victim_spans(result: FailoverResult, scale: _Scale) -> Iterator[_Span]:
    fault = result.setup.fault
    yield _Span(scale.from_ms, 0, "primary", "primary")
    yield _Span(0, scale.to_ms, "failed", "off" if fault == POWER else str(fault))


def _survivor_spans(result: FailoverResult, scale: _Scale) -> Iterator[_Span]:
    """It is backup until it does something, and primary when the client is served again."""
    acted = [float(str(one["t_ms"])) for one in result.timeline if one["node"] == result.survivor]
    took_ms = min((t_ms for t_ms in acted if 0 < t_ms < scale.to_ms), default=scale.to_ms)
    resumed_ms = result.blackout_ms if result.probe_resumed else scale.to_ms
    served_ms = min(max(took_ms, resumed_ms), scale.to_ms)
    yield _Span(scale.from_ms, took_ms, "backup", "backup")
    yield _Span(took_ms, served_ms, "between", "taking over")
    yield _Span(served_ms, scale.to_ms, "primary", "primary")


def _draw_lane(scale: _Scale, row: int, node: str, spans: Iterable[_Span]) -> Iterator[str]:
    y = _LANES + row * _LANE
    yield _text(_LEFT - 8, y + 17, node, "end")
    for span in spans:
        x = scale.x(span.from_ms)
        width = scale.x(span.to_ms) - x
        if width > 0:
            yield f'<rect class="{span.what}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}"/>'
        if width > len(span.label) * _LETTER + 10:
            yield _text(x + width / 2, y + 17, span.label, "middle")


def _draw_moments(scale: _Scale, result: FailoverResult) -> Iterator[str]:
    """The fault and the end of the silence, through everything; what they are is beside them."""
    fault = result.setup.fault
    moments = [(0.0, "power off" if fault == POWER else f"fault: {fault}", True)]
    if result.probe_resumed and result.blackout_ms < scale.to_ms:
        text = f"answered again, {result.blackout_ms:.0f} ms"
        room = _WIDTH - scale.x(result.blackout_ms)
        moments.append((result.blackout_ms, text, room < len(text) * _LETTER))
    for t_ms, what, left in moments:
        x = scale.x(t_ms)
        yield _line(x, _LANES - 20, x, _RATES + _PLOT, "moment")
        yield _text(x + (-6 if left else 6), _LANES - 9, what, "small end" if left else "small")


# -- plots ------------------------------------------------------------


def _draw_probes(scale: _Scale, series: Series) -> Iterator[str]:
    """A bar for each bin: how many probes were sent (red), and before it how many of these were answered."""
    top = _round_up(max((one.sent for one in series.probes), default=1))
    width = scale.x(BIN_MS) - scale.x(0) - 0.4
    yield from _draw_axes(_PROBES, top, f"probes in {BIN_MS} ms")
    for x, kind, what in ((_WIDTH - 160, "answered", "answered"), (_WIDTH - 70, "lost", "lost")):
        yield f'<rect class="{kind}" x="{x}" y="{_PROBES - 19}" width="10" height="10"/>'
        yield _text(x + 15, _PROBES - 10, what, "small")
    for one in series.probes:
        for kind, count in (("lost", one.sent), ("answered", one.answered)):
            height = count / top * _PLOT
            if height:
                place = f'x="{scale.x(one.t_ms):.1f}" y="{_PROBES + _PLOT - height:.1f}"'
                yield f'<rect class="{kind}" {place} width="{width:.1f}" height="{height:.1f}"/>'
    if not series.probes:
        yield _text(_WIDTH / 2, _PROBES + _PLOT / 2, "No probe was sent.", "middle")


def _draw_rates(scale: _Scale, series: Series) -> Iterator[str]:
    """In steps: what is known is the mean since the sample before."""
    top = _round_up(max((one.bytes_per_s for one in series.rates), default=0) / 1000 or 1)
    yield from _draw_axes(_RATES, top, "kB a second that the connections receive")
    if len(series.rates) < 2:
        yield _text(_WIDTH / 2, _RATES + _PLOT / 2, "Not enough samples.", "middle")
        return
    points = []
    for before, one in pairwise(series.rates):
        y = _RATES + _PLOT - one.bytes_per_s / 1000 / top * _PLOT
        points += [f"{scale.x(t_ms):.1f},{y:.1f}" for t_ms in (before.t_ms, one.t_ms)]
    yield f'<polyline class="rate" points="{" ".join(points)}"/>'


def _round_up(value: float) -> float:
    """To a number that is easily read on an axis."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in _ROUND if step * unit >= value)


def _draw_axes(y: int, top: float, label: str) -> Iterator[str]:
    yield _text(_LEFT, y - 10, label, "small")
    for value in (0, top / 2, top):
        at = y + _PLOT - value / top * _PLOT
        yield _line(_LEFT, at, _WIDTH - _RIGHT, at, "grid" if value else "axis")
        yield _text(_LEFT - 8, at + 4, f"{value:g}", "small end")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
