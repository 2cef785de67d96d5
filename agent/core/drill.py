# SPDX-License-Identifier: GPL-2.0-or-later
"""A drill: a handover to the other node and back, and what the node that begins it can see of them. Pure.

    this node holds the address  |  no node does  |  the other node answers for it   at the first handover
    the other node answers       |  no node does  |  this node holds it              at the second one

Both moments of a gap are seen by one node and with one clock. What it cannot see is what becomes of a packet
that is forwarded: a firewall is no client of its own pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from agent.model.pair import IPAddress


@dataclass(frozen=True, slots=True)
class VipOnLink:
    """A virtual address on its link."""

    interface: str
    address: IPAddress

    def __str__(self) -> str:
        return f"{self.address} ({self.interface})"


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one address in one handover, in seconds of one clock. `ceased_s`, `held_s`: when this node gave it
    up, and had it; `first_s`, `last_s`: when the other node first and last answered for it."""

    asked: int = 0
    answered: int = 0
    ceased_s: float | None = None
    held_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None


def silence_away_ms(seen: Seen) -> float | None:
    """How long no node answered for it, when this one gave it up. None when it was not seen."""
    if seen.ceased_s is None or seen.first_s is None:
        return None
    return _milliseconds(seen.first_s - seen.ceased_s)


def silence_back_ms(seen: Seen) -> float | None:
    """The same, when this node got it."""
    if seen.held_s is None or seen.last_s is None:
        return None
    return _milliseconds(seen.held_s - seen.last_s)


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 1)


class DrillEnd(Enum):
    DONE = "done"
    FAILED = "failed"
    """This node is primary as before, but not by what was to be tried."""
    NOT_BACK = "not handed back"
    """The other node is primary, or none was seen to be."""
    BEGUN = "begun"
    """What a report says of a drill that was killed, or has not ended."""


EXIT_STATUS = {DrillEnd.DONE: 0, DrillEnd.FAILED: 1, DrillEnd.NOT_BACK: 3}


@dataclass(frozen=True, slots=True)
class Leg:
    """One of the two handovers. `text`: what its agent said; `error`: why there was none. `seconds`,
    `gap_ms`: of the agent that handed over."""

    text: str = ""
    error: str | None = None
    seconds: float | None = None
    gap_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """What was measured of one; None what was not seen, and `why_not`."""

    interface: str
    address: str
    away_ms: float | None = None
    back_ms: float | None = None
    asked: int = 0
    answered: int = 0
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionsLeft:
    """Established TCP connections through the pair: `before`, and how many of these are so afterwards."""

    before: int
    after: int


@dataclass(frozen=True, slots=True)
class DrillReport:
    """`begun`: in UTC. `every_ms`: how often each address was asked for; `late_ms`: for how long the program
    that asks was itself held up at the most, by which a figure may be too large."""

    begun: str
    node: str
    peer: str
    by: str
    ending: DrillEnd
    away: Leg = Leg()
    back: Leg | None = None
    addresses: tuple[Address, ...] = ()
    connections: ConnectionsLeft | None = None
    every_ms: float = 0.0
    late_ms: float = 0.0

    def values(self) -> dict[str, object]:
        values = {**asdict(self), "ending": self.ending.value}
        return {"schema": 1, **values, "text": self.summary(), "not_measured": NOT_MEASURED}

    def summary(self) -> str:
        """One sentence, for the journal."""
        match self.ending:
            case DrillEnd.DONE:
                return f"drill: {self.node} handed over to {self.peer} and back; {self._measured()}"
            case DrillEnd.FAILED:
                return f"drill: {self.node} is primary as before, but {_find_error(self.away, self.back)}"
            case DrillEnd.NOT_BACK:
                why = (self.back or Leg()).error or "it is not known why"
                return f"drill: {self.node} is not primary, {self.peer} has not handed back: {why}"
            case DrillEnd.BEGUN:
                return f"drill: {self.node} hands over to {self.peer} and gets it back"

    def _measured(self) -> str:
        parts = []
        for direction, found in (
            ("there", [one.away_ms for one in self.addresses]),
            ("back", [one.back_ms for one in self.addresses]),
        ):
            known = [each for each in found if each is not None]
            longest = f"for at most {max(known):.0f} ms" if known else "for a time that was not seen"
            parts.append(f"{longest} on the way {direction}")
        words = f"a virtual address was without an answer {' and '.join(parts)}"
        return f"{words}; {_say_connections(self.connections)}"


NOT_MEASURED = "forwarded packets; a firewall is no client of its own pair"
ADVICE = "A host on one side can count them, with a ping through the pair meanwhile."


def _say_connections(found: ConnectionsLeft | None) -> str:
    if found is None:
        return "established TCP connections were not compared"
    if not found.before:
        return "no established TCP connections went through the pair before"
    what = "established TCP connection" + "s" * (found.before != 1)
    return (
        f"{found.after} of {found.before} {what} through the pair {'is' if found.after == 1 else 'are'} left"
    )


def conclude(away: Leg, back: Leg | None, *, primary: bool) -> DrillEnd:
    """`primary`: whether this node is, in the end."""
    if not primary:
        return DrillEnd.NOT_BACK
    return DrillEnd.FAILED if _find_error(away, back) else DrillEnd.DONE


def _find_error(away: Leg, back: Leg | None) -> str | None:
    return away.error or (back or Leg()).error


def describe_plan(
    nodes: tuple[str, str], places: Sequence[VipOnLink], unseen: Mapping[VipOnLink, str], every_ms: float
) -> str:
    """What will be done, before it is asked whether it may. `unseen`: what cannot be measured, and why."""
    node, peer = nodes
    lines = [
        f"A drill with the real pair: {node} hands over to {peer}, and {peer} hands back.",
        "With few states it takes about 10 seconds, with a million some minutes; for most of that time",
        f"{peer} is primary. Connections through the pair continue. Those to a virtual address itself end,",
        "such as an SSH session to it; the drill then continues without its terminal.",
        "",
        f"Measured, all of it from {node}:",
        f"  for how long no node answers for a virtual address, which is asked every {every_ms:g} ms",
        *(f"    {place}" for place in places),
        *(f"    not {place}: {why}" for place, why in unseen.items()),
        "  how many of the established TCP connections through the pair are left afterwards",
        "  what both agents say of their handovers",
        f"Not measured: {NOT_MEASURED}.",
        ADVICE,
    ]
    return "".join(f"{line}\n" for line in lines)


def to_text(report: DrillReport) -> str:
    """The table for people."""
    lines = ["", f"{report.node} -> {report.peer}  {report.away.error or report.away.text}"]
    if report.back is not None:
        lines.append(f"{report.peer} -> {report.node}  {report.back.error or report.back.text}")
    if report.away.error is None:
        lines += _addresses_text(report)
        lines.append(_say_connections(report.connections))
    lines += ["", f"Not measured: {NOT_MEASURED}.", ADVICE, ""]
    if report.ending is DrillEnd.NOT_BACK:
        lines.append(
            f"{report.node} is not primary. When both nodes are ready, on {report.peer}: hafw handover"
        )
    elif report.ending is DrillEnd.FAILED:
        lines.append(f"{report.node} is primary as before.")
    else:
        lines.append(f"{report.node} is primary again.")
    return "".join(f"{line}\n" for line in lines)


def _addresses_text(report: DrillReport) -> list[str]:
    rows = [("virtual address", "interface", "there ms", "back ms", "answers")]
    for one in report.addresses:
        answers = one.why_not or f"{one.answered} of {one.asked}"
        rows.append((one.address, one.interface, _figure(one.away_ms), _figure(one.back_ms), answers))
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    lines = [
        "",
        f"No node answered for a virtual address, as seen from {report.node} (asked every "
        f"{report.every_ms:g} ms, held up for {report.late_ms:.0f} ms at the most):",
    ]
    for name, interface, away, back, answers in rows:
        left = f"{name:<{widths[0]}}  {interface:<{widths[1]}}"
        lines.append(f"  {left}  {away:>{widths[2]}}  {back:>{widths[3]}}  {answers}")
    return [*lines, ""]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
