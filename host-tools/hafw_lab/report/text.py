# SPDX-License-Identifier: GPL-2.0-or-later
"""What people read: tables, the picture of a failover, the verdict. Pure."""

from collections.abc import Mapping, Sequence
from statistics import median

from hafw_lab.measure.result import FailoverResult
from hafw_lab.spoken import Ink


def draw_timeline(
    timeline: Sequence[Mapping[str, object]], nodes: Sequence[str], dead: str | None, ink: Ink
) -> str:
    """One line a moment: the time, a lane for each node with a mark where it happened, and what happened.
    The lane of the node `dead` ends with the fault at 0 ms, and begins again with the next thing that it
    does."""
    width = max(len(node) for node in nodes) + 2
    lines = [ink("bold", f"{'ms':>9}  {''.join(node.center(width) for node in nodes)}  what")]
    gone = False
    for moment in timeline:
        at_ms, where = float(str(moment["t_ms"])), str(moment["node"])
        fell = where == dead and at_ms == 0
        gone = fell or (gone and where != dead)
        lanes = ""
        for node in nodes:
            mark, color = ("|", "dim") if node != where else ("X", "red") if fell else ("*", "green")
            silent = gone and node == dead and not fell
            lanes += " " * width if silent else mark.center(width).replace(mark, ink(color, mark))
        lines.append(f"{at_ms:9.1f}  {lanes}  {moment['what']}")
    return "\n".join(lines)


def say_verdict(result: FailoverResult) -> str:
    """One sentence."""
    parts = [f"{result.survived} of {result.opened} connections survived"]
    if result.reset:
        parts.append(f"{result.reset} were reset")
    silence = f"the client saw {result.blackout_ms:.0f} ms of silence"
    if not result.probe_resumed:
        silence = f"the probe was never answered again ({result.blackout_ms:.0f} ms and counting)"
    else:
        silence += f" ({result.detection_bound_ms:.0f} ms is the longest that detection may take)"
    parts.append(silence)
    if result.agent.notified_to_open_ms is not None:
        parts.append(f"the agent's own part was {result.agent.notified_to_open_ms:.1f} ms")
    if result.problems:
        parts.append("and afterwards: " + ", ".join(result.problems))
    return "; ".join(parts) + "."


def draw_table(head: Sequence[str], rows: Sequence[Sequence[str]], ink: Ink) -> str:
    """Columns as wide as their widest cell; the first is aligned left, the others right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True)),
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([ink("bold", line(head)), *map(line, rows)])


def say_spread(values: Sequence[float | None], *, digits: int = 0) -> str:
    """`341 (338..350)`: the median and the range; `-` when there is none, and how many runs have none."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    text = f"{median(there):.{digits}f}"
    if len(there) > 1:
        text += f" ({min(there):.{digits}f}..{max(there):.{digits}f})"
    missing = len(values) - len(there)
    return f"{text}, {missing} without" if missing else text


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed. `values` must not be empty."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 1000) // 1000))
    return ordered[rank - 1]
