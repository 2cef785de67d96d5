# SPDX-License-Identifier: GPL-2.0-or-later
"""The picture of a lab: topology, addresses, and who is primary now, as text, mermaid or SVG. Pure.

The firewalls are in the middle, one above the other; what they share only with each other (the sync
segment) is between them; zone `client` is to the left, everything else to the right.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from hafw_lab.model.topology import Link, NodeKind, NodeSpec, Segment, Topology


@dataclass(frozen=True, slots=True)
class LiveNode:
    """What is known of a node that is (or was) up."""

    alive: bool = True
    role: str | None = None
    """`primary`, `backup`, ...; None for a node that is no firewall."""
    vips: tuple[str, ...] = ()
    links_down: frozenset[str] = frozenset()

    def describe(self) -> str:
        return (self.role or "up") if self.alive else "off"


Live = Mapping[str, LiveNode]


@dataclass(frozen=True, slots=True)
class Sides:
    """Where everything stands."""

    left: tuple[Segment, ...]
    right: tuple[Segment, ...]
    between: tuple[Segment, ...]
    firewalls: tuple[NodeSpec, ...]
    hosts: Mapping[str, tuple[NodeSpec, ...]] = field(default_factory=dict)
    """By the segment that their first link is on."""


def arrange(topology: Topology) -> Sides:
    firewalls = tuple(node for node in topology.nodes if node.kind is NodeKind.FIREWALL)
    hosts: dict[str, tuple[NodeSpec, ...]] = {}
    for node in topology.nodes:
        if node.kind is NodeKind.HOST:
            where = node.links[0].segment
            hosts[where] = (*hosts.get(where, ()), node)
    between = tuple(one for one in topology.segments if one.name not in hosts and not one.vips)
    outer = [one for one in topology.segments if one not in between]
    left = tuple(one for one in outer if one.zone == "client")
    return Sides(left, tuple(one for one in outer if one not in left), between, firewalls, hosts)


# -- text ------------------------------------------------------------


def to_text(topology: Topology, live: Live | None = None) -> str:
    """One block a segment and the nodes that are plugged into it: reads well in any terminal."""
    lines = []
    for segment in topology.segments:
        vips = f", virtual {_join(segment.vips)}" if segment.vips else ""
        lines.append(f"{segment.name} ({segment.zone}{vips})")
        plugs = [
            (node, link) for node in topology.nodes for link in node.links if link.segment == segment.name
        ]
        for number, (node, link) in enumerate(plugs, 1):
            branch = "`--" if number == len(plugs) else "+--"
            broken = " (no carrier)" if link.name in _live(live, node).links_down else ""
            state = f"  [{_live(live, node).describe()}]" if live is not None else ""
            lines.append(f"  {branch} {node.name} {link.name} {_join(link.addresses)}{broken}{state}")
    return "\n".join(lines) + "\n"


# -- mermaid ------------------------------------------------------------


def to_mermaid(topology: Topology, live: Live | None = None) -> str:
    names = [*(one.name for one in topology.segments), *(one.name for one in topology.nodes)]
    ids = {name: f"n{number}" for number, name in enumerate(names)}
    left = {one.name for one in (*arrange(topology).left, *arrange(topology).between)}
    lines = ["graph LR"]
    for segment in topology.segments:
        vips = f"<br/>{_join(segment.vips)}" if segment.vips else ""
        lines.append(f'    {ids[segment.name]}(["{segment.name} {segment.zone}{vips}"])')
    for node in topology.nodes:
        state = f"<br/>{_live(live, node).describe()}" if live is not None else ""
        lines.append(f'    {ids[node.name]}["{node.name}{state}"]')
    for node in topology.nodes:
        for link in node.links:
            edge = "-.-" if link.name in _live(live, node).links_down else "---"
            # mermaid ranks from left to right by which end is named first
            node_first = (node.kind is NodeKind.HOST) == (link.segment in left)
            ends = (ids[node.name], ids[link.segment])
            first, second = ends if node_first else ends[::-1]
            lines.append(f'    {first} {edge}|"{link.name} {_join(link.addresses)}"| {second}')
    if live is not None:
        lines += [
            "    classDef primary stroke:#1a7f37,stroke-width:3px",
            "    classDef off stroke-dasharray:4",
        ]
        for node in topology.nodes:
            state = _live(live, node).describe()
            if state in ("primary", "off"):
                lines.append(f"    class {ids[node.name]} {state}")
    return "\n".join(lines) + "\n"


# -- SVG ------------------------------------------------------------

_WIDTH, _BOX_W, _LINE = 900, 150, 16
_MIDDLE, _BUS = _WIDTH // 2, 255
_COLORS = {"primary": "#1a7f37", "off": "#8c959f"}
_STYLE = (
    ".topology text{font:13px sans-serif;fill:#1f2328}.topology .name{font-weight:bold}"
    ".topology .small{font-size:11px;fill:#57606a}"
    ".topology .bus{stroke:#0969da;stroke-width:5;stroke-linecap:round}"
    ".topology .wire{stroke:#57606a;stroke-width:1.5}.topology .cut{stroke:#cf222e;stroke-dasharray:5 4}"
    ".topology rect{fill:#ffffff;stroke:#57606a;stroke-width:1.5}"
)


def to_svg(topology: Topology, live: Live | None = None) -> str:
    """A picture of its own, without fonts, scripts or references to anything else."""
    sides = arrange(topology)
    rows = max(len(sides.firewalls), len(sides.left), len(sides.right), 1)
    height = 60 + 210 * rows
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="topology" viewBox="-8 0 {_WIDTH + 16} {height}"'
        f' role="img" aria-label="topology of the lab"><style>{_STYLE}</style>',
        *_draw_side(sides, sides.left, _MIDDLE - _BUS, -1, height, live),
        *_draw_side(sides, sides.right, _MIDDLE + _BUS, 1, height, live),
        *_draw_firewalls(sides, height, live),
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"


def _draw_side(
    sides: Sides, segments: Sequence[Segment], x: int, outward: int, height: int, live: Live | None
) -> Iterator[str]:
    """Each segment an upright line, with its hosts outside and wires to the firewalls inside."""
    for number, segment in enumerate(segments):
        here = x - outward * 40 * number
        yield f'<line class="bus" x1="{here}" y1="70" x2="{here}" y2="{height - 40}"/>'
        label = [f"{segment.name} ({segment.zone})", *map(str, segment.vips)]
        for row, text in enumerate(label):
            kind = "name" if row == 0 else "small"
            y = 70 - _LINE * (len(label) - row) + 8 + 30 * number
            yield f'<text class="{kind}" x="{here}" y="{y}" text-anchor="middle">{escape(text)}</text>'
        for row, host in enumerate(sides.hosts.get(segment.name, ())):
            y = height // 2 + 90 * row
            edge = here + outward * 45
            yield _wire(here, y, edge, y, host.links[0], _live(live, host))
            yield from _draw_box(host, edge if outward > 0 else edge - _BOX_W, y, live)
        for row, firewall in enumerate(sides.firewalls):
            for link in firewall.links:
                if link.segment == segment.name:
                    y = _firewall_y(row, height, sides) - 12 + 24 * number
                    edge = _MIDDLE + outward * (_BOX_W // 2)
                    yield _wire(here, y, edge, y, link, _live(live, firewall))
                    yield from _draw_label(link, (here + edge) // 2, y - 6)


def _draw_firewalls(sides: Sides, height: int, live: Live | None) -> Iterator[str]:
    for number, segment in enumerate(sides.between):
        y, half = height // 2 + 30 * number, 60
        yield f'<line class="bus" x1="{_MIDDLE - half}" y1="{y}" x2="{_MIDDLE + half}" y2="{y}"/>'
        text = escape(f"{segment.name} ({segment.zone})")
        yield f'<text class="name" x="{_MIDDLE + half + 10}" y="{y + 4}">{text}</text>'
        for row, firewall in enumerate(sides.firewalls):
            for link in firewall.links:
                if link.segment == segment.name:
                    end = _firewall_y(row, height, sides)
                    yield _wire(_MIDDLE, y, _MIDDLE, end, link, _live(live, firewall))
                    yield from _draw_label(link, _MIDDLE - 62, (y + end) // 2 + (12 if end > y else 0))
    for row, firewall in enumerate(sides.firewalls):
        yield from _draw_box(firewall, _MIDDLE - _BOX_W // 2, _firewall_y(row, height, sides), live)


def _firewall_y(row: int, height: int, sides: Sides) -> int:
    return 70 + (height - 110) * (2 * row + 1) // (2 * len(sides.firewalls))


def _draw_box(node: NodeSpec, x: int, y: int, live: Live | None) -> Iterator[str]:
    known = _live(live, node)
    state = known.describe() if live is not None else ""
    lines = [("name", node.name)]
    if state:
        lines.append(("small", state))
    lines += [("small", f"holds {vip}") for vip in known.vips]
    if node.kind is NodeKind.HOST:
        lines += [("small", str(address)) for link in node.links for address in link.addresses]
    tall = _LINE * len(lines) + 14
    color = _COLORS.get(state)
    paint = f' style="stroke:{color};stroke-width:3"' if color else ""
    yield f'<rect x="{x}" y="{y - tall // 2}" width="{_BOX_W}" height="{tall}" rx="6"{paint}/>'
    for number, (kind, text) in enumerate(lines):
        line_y = y - tall // 2 + _LINE * (number + 1) + 2
        middle = x + _BOX_W // 2
        yield f'<text class="{kind}" x="{middle}" y="{line_y}" text-anchor="middle">{escape(text)}</text>'


def _draw_label(link: Link, x: int, y: int) -> Iterator[str]:
    texts = [f"{link.name} {link.addresses[0]}" if link.addresses else link.name]
    texts += [str(address) for address in link.addresses[1:]]
    for number, text in enumerate(texts):
        at = y - 13 * (len(texts) - 1 - number)
        yield f'<text class="small" x="{x}" y="{at}" text-anchor="middle">{escape(text)}</text>'


def _wire(x1: int, y1: int, x2: int, y2: int, link: Link, node: LiveNode) -> str:
    cut = " cut" if link.name in node.links_down or not node.alive else ""
    return f'<line class="wire{cut}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _live(live: Live | None, node: NodeSpec) -> LiveNode:
    return (live or {}).get(node.name, LiveNode(alive=live is None))


def _join(addresses: Sequence[object]) -> str:
    return " ".join(map(str, addresses))
