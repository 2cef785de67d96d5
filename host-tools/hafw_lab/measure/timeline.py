# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened when, on which node: one list from keepalived's log, the agent's records and the traffic.
Pure.

Hard facts
* Debian's keepalived is built without its log file option (-g) and stamps whole seconds on the console; so
  does conntrackd. The lab puts `[seconds.microseconds] ` of CLOCK_MONOTONIC before each line of a service's
  output.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hafw_lab.client.clock import Clock
from hafw_lab.client.records import Record
from hafw_lab.traffic.figures import Connection, ProbeFigures

_STAMPED = re.compile(r"^\[ *(\d+)\.(\d{1,9})\] (.*)$")
_ENTERING = re.compile(r"\((\S+)\) Entering (\w+) STATE")
_COMMITTED = re.compile(r"Committed (\d+) new entries")
_COMMIT_TOOK = re.compile(r"commit has taken (\d+)\.(\d{1,6}) seconds")


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """`at_ns` is CLOCK_MONOTONIC."""

    at_ns: int
    node: str
    what: str


def keepalived_moments(log: str, node: str) -> Iterator[Moment]:
    """The state changes in keepalived's log."""
    for at_ns, text in stamped_lines(log):
        entering = _ENTERING.search(text)
        if entering:
            yield Moment(at_ns, node, f"keepalived: {entering[1]} is {entering[2]}")


def stamped_lines(log: str) -> Iterator[tuple[int, str]]:
    """Lines of one of the lab's logs, each with its CLOCK_MONOTONIC in nanoseconds."""
    for line in log.splitlines():
        stamped = _STAMPED.match(line)
        if stamped:
            yield int(stamped[1]) * 10**9 + int(stamped[2].ljust(9, "0")), stamped[3]


def agent_moments(records: Iterable[Record], node: str) -> Iterator[Moment]:
    for record in records:
        at_ns = record.get("mono_ns")
        if isinstance(at_ns, int):
            yield Moment(at_ns, node, f"agent: {_say(record)}")


def _say(record: Record) -> str:
    message = record.get("message")
    if message:
        return str(message)
    names = ("event", "step", "trigger", "from", "to", "result")
    return " ".join(str(record[name]) for name in names if record.get(name))


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """What the new primary's agent says of its own part; None where nothing says it."""

    notified_to_open_ms: float | None = None
    commit_ms: float | None = None
    expected: int | None = None
    committed: int | None = None


def agent_figures(records: Iterable[Record], since_ns: int) -> AgentFigures:
    """From the first transition to primary after `since_ns`, and the steps that belong to it."""
    late = [record for record in records if _number(record, "mono_ns", -1) >= since_ns]
    found = next((r for r in late if r.get("event") == "transition" and r.get("to") == "primary"), None)
    if found is None:
        return AgentFigures()
    own = [r for r in late if r.get("transition") == found.get("transition")]
    commit = next((r for r in own if r.get("event") == "step" and r.get("committed") is not None), None)
    counts = commit or found
    return AgentFigures(
        notified_to_open_ms=_float(found, "notified_to_open_ms"),
        commit_ms=_float(commit, "duration_ms") if commit else None,
        expected=_whole(counts, "expected"),
        committed=_whole(counts, "committed"),
    )


def stock_figures(syslog: str, since_ns: int) -> AgentFigures:
    """What conntrackd logged of the first commit after `since_ns`, which the stock script asked for."""
    late = "\n".join(text for at_ns, text in stamped_lines(syslog) if at_ns >= since_ns)
    committed, took = _COMMITTED.search(late), _COMMIT_TOOK.search(late)
    return AgentFigures(
        commit_ms=int(took[1]) * 1000 + int(took[2].ljust(6, "0")) / 1000 if took else None,
        committed=int(committed[1]) if committed else None,
    )


def traffic_moments(
    connections: Sequence[Connection], probe: ProbeFigures, fault_ns: int, client: str
) -> Iterator[Moment]:
    """The client's view: where the probe's blackout begins and ends, and how the connections resumed."""
    yield Moment(probe.blackout_from_ns, client, "last answer to the probe before the silence")
    if probe.resumed_ns is not None:
        text = f"the probe is answered again, after {probe.blackout_ns / 1e6:.0f} ms of silence"
        yield Moment(probe.resumed_ns, client, text)
    resumed = sorted(c.resumed_ns for c in connections if c.survived and c.resumed_ns >= fault_ns)
    if resumed:
        yield Moment(resumed[0], client, "the first connection resumes")
        yield Moment(resumed[-1], client, f"{len(resumed)} of {len(connections)} connections have resumed")
    ended = sorted((c.ended_ns, c.ended) for c in connections if c.ended)
    if ended:
        yield Moment(ended[0][0], client, f"the first connection breaks ({ended[0][1]})")
        yield Moment(ended[-1][0], client, f"{len(ended)} of {len(connections)} connections are broken")


def at_home(moments: Iterable[Moment], clock: Clock) -> Iterator[Moment]:
    """Those of a node whose clock this is, by this machine's clock."""
    return (replace(moment, at_ns=clock.at_home(moment.at_ns)) for moment in moments)


def relative(moments: Iterable[Moment], zero_ns: int, *, before_ms: float = 100) -> list[dict[str, object]]:
    """Sorted, in milliseconds from `zero_ns`; what was more than `before_ms` earlier is left out."""
    return [
        {"t_ms": round((moment.at_ns - zero_ns) / 1e6, 3), "node": moment.node, "what": moment.what}
        for moment in sorted(set(moments))
        if moment.at_ns - zero_ns >= -before_ms * 1e6
    ]


def _number(record: Record, name: str, default: float) -> float:
    value = record.get(name)
    return value if isinstance(value, int | float) else default


def _float(record: Record, name: str) -> float | None:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else None


def _whole(record: Record, name: str) -> int | None:
    value = record.get(name)
    return value if isinstance(value, int) else None
