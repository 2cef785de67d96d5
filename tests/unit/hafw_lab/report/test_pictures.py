# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology pictures and the report page, from values alone."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from hafw_lab.measure.series import ProbeBin, Rate, Series, bin_probes, rates
from hafw_lab.model.topology import DEFAULT
from hafw_lab.report import chart
from hafw_lab.report.page import Surroundings, to_html
from hafw_lab.report.topology import LiveNode, to_mermaid, to_svg, to_text
from tests.unit.hafw_lab.report.made_result import RESULT as MADE

MS = 1_000_000
SVG = "{http://www.w3.org/2000/svg}"
LIVE = {
    "client": LiveNode(),
    "fw-1": LiveNode(alive=False),
    "fw-2": LiveNode(role="primary", vips=("192.168.0.100",), links_down=frozenset({"eth2"})),
    "omarine": LiveNode(),
}
RESULT = replace(
    MADE,
    survived=49,
    reset=1,
    timeline=(
        {"t_ms": 0.0, "node": "fw-1", "what": "power off"},
        {"t_ms": 341.25, "node": "client", "what": "answered <again>"},
    ),
    series=Series((ProbeBin(-10, 10, 10), ProbeBin(0, 10, 3)), (Rate(-5, 1000.0), Rate(95, 0.0))),
)
LONG = replace(
    RESULT,
    timeline=(*RESULT.timeline, {"t_ms": 300.0, "node": "fw-2", "what": "keepalived: VI_eth0 is MASTER"}),
    series=Series(tuple(ProbeBin(t, 10, 0 if 0 <= t < 341 else 10) for t in range(-200, 1000, 10))),
)
AROUND = Surroundings("today", "./run demo --report 'a & b'", (("keepalived", "v2 <x>"),))


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")]


def test_the_svg_names_every_node_segment_and_address() -> None:
    shown = " ".join(texts(to_svg(DEFAULT, LIVE)))
    for node in DEFAULT.nodes:
        assert node.name in shown
        assert all(str(address) in shown for link in node.links for address in link.addresses)
    assert all(segment.name in shown for segment in DEFAULT.segments)
    assert "holds 192.168.0.100" in shown


def test_wires_of_a_dead_node_and_a_dead_link_are_drawn_as_cut() -> None:
    def cut(svg: str) -> int:
        lines = ET.fromstring(svg).iter(f"{SVG}line")
        return sum("cut" in (line.get("class") or "") for line in lines)

    assert cut(to_svg(DEFAULT, LIVE)) == 4, "three of fw-1, and eth2 of fw-2"
    assert cut(to_svg(DEFAULT)) == 0


def test_the_text_has_each_plug_once_and_the_live_roles() -> None:
    text = to_text(DEFAULT, LIVE)
    assert text.count("-- ") == sum(len(node.links) for node in DEFAULT.nodes)
    assert "fw-2 eth2 192.168.1.2/24 (no carrier)  [primary]" in text
    assert "fw-1 eth0 192.168.0.1/24  [off]" in text
    assert "[" not in to_text(DEFAULT)


def test_mermaid_knows_the_roles_and_the_broken_link() -> None:
    graph = to_mermaid(DEFAULT, LIVE)
    assert graph.count("---|") + graph.count("-.-|") == sum(len(node.links) for node in DEFAULT.nodes)
    assert graph.count("-.-|") == 1
    primary = next(line.split('["')[0].strip() for line in graph.splitlines() if "fw-2<br/>primary" in line)
    assert f"class {primary} primary" in graph


def test_probes_are_counted_in_the_bin_in_which_they_left() -> None:
    sent = [seq * 2 * MS for seq in range(20)]
    bins = bin_probes(sent, frozenset(range(20)) - {7}, 10 * MS, before_ms=20, after_ms=40)
    assert [(one.t_ms, one.sent, one.answered) for one in bins] == [
        (-10, 5, 5),
        (0, 5, 4),
        (10, 5, 5),
        (20, 5, 5),
    ]


def test_rates_are_between_samples_and_close_samples_are_joined() -> None:
    samples = [(0, 0), (100 * MS, 1000), (105 * MS, 1000), (200 * MS, 1000)]
    assert rates(samples, 100 * MS) == (Rate(0, 10_000.0), Rate(100, 0.0))
    assert rates([], 0) == ()


class Page(HTMLParser):
    """What a page refers to, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta",):
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_else_and_is_well_formed() -> None:
    text = to_html(RESULT, DEFAULT, AROUND, ("client", "fw-1", "fw-2"))
    page = Page()
    page.feed(text)
    assert (page.open, page.references) == ([], [])
    assert "url(" not in text
    assert "<script" not in text


def test_the_page_says_what_was_lost_and_escapes_what_others_wrote() -> None:
    text = to_html(RESULT, DEFAULT, AROUND, ("client", "fw-1", "fw-2"))
    assert 'class="verdict bad"' in text
    assert "49 of 50 connections survived; 1 were reset" in text
    assert "answered &lt;again&gt;" in text
    assert "v2 &lt;x&gt;" in text
    assert "a &amp; b" in text
    assert text.count('class="lost"') == 3, "two bars, and one that says what they mean"
    well = replace(RESULT, survived=50, reset=0)
    assert 'class="verdict ok"' in to_html(well, DEFAULT, AROUND, ("client",))


def test_a_page_without_samples_says_so() -> None:
    text = to_html(replace(RESULT, series=Series()), DEFAULT, AROUND, ())
    assert "No probe was sent." in text
    assert "Not enough samples." in text


def spans(svg: str) -> list[tuple[str, str, float]]:
    """(class, of which node, width) of the lanes' parts."""
    lanes = {"92": RESULT.victim, "126": RESULT.survivor}
    found = [one.attrib for one in ET.fromstring(svg).iter(f"{SVG}rect")]
    return [(one["class"], lanes[one["y"]], float(one["width"])) for one in found if one.get("y") in lanes]


def test_the_failover_is_drawn_with_what_each_node_was() -> None:
    svg = chart.to_svg(LONG)
    assert [(kind, node) for kind, node, _ in spans(svg)] == [
        ("primary", "fw-1"),
        ("failed", "fw-1"),
        ("backup", "fw-2"),
        ("between", "fw-2"),
        ("primary", "fw-2"),
    ]
    widths = {(kind, node): width for kind, node, width in spans(svg)}
    assert widths["between", "fw-2"] == pytest.approx(widths["failed", "fw-1"] * 41 / 1000, rel=0.02)
    shown = texts(svg)
    assert {"off", "power off", "backup", "answered again, 341 ms", "-200", "0", "1000"} <= set(shown)
    assert "49 of 50 connections survive the loss of fw-1" in shown


def test_a_survivor_that_never_acts_stays_backup_in_the_picture() -> None:
    idle = replace(LONG, timeline=LONG.timeline[:1], probe_resumed=False)
    svg = chart.to_svg(idle)
    assert [kind for kind, node, _ in spans(svg) if node == "fw-2"] == ["backup"]
    assert not [text for text in texts(svg) if text.startswith("answered again")]


def test_what_is_near_the_edge_is_written_inside() -> None:
    late = replace(LONG, blackout_ms=950.0)
    drawn = ET.fromstring(chart.to_svg(late)).iter(f"{SVG}text")
    assert [one.get("class") for one in drawn if one.text == "answered again, 950 ms"] == ["small end"]


def test_axes_are_written_without_exponents() -> None:
    fast = Series(LONG.series.probes, (Rate(0, 0.0), Rate(100, 11_500_000.0), Rate(200, 900.0)))
    assert {"12000", "6000"} <= set(texts(chart.to_svg(replace(LONG, series=fast))))
