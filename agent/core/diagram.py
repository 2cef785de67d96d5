# SPDX-License-Identifier: GPL-2.0-or-later
"""The state diagram of docs/how-it-works.md, drawn from the table itself. Pure."""

from agent.core.machine import TRANSITIONS
from agent.core.state import Phase


def to_mermaid() -> str:
    """Every move from one phase to another; moves that stay in a phase are in `to_markdown`."""
    lines = ["stateDiagram-v2", "    [*] --> start"]
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, kind), (target, _) in TRANSITIONS.items():
        if target is not phase:
            arrows.setdefault((phase, target), []).append(kind.value)
    for (phase, target), words in arrows.items():
        lines.append(f"    {phase.value} --> {target.value}: {' / '.join(words)}")
    return "\n".join(lines)


def to_markdown() -> str:
    """What each phase does without leaving it: `event: plan`."""
    lines = ["| phase | stays, and does |", "| --- | --- |"]
    for phase in Phase:
        stays = [
            f"{kind.value}: {make.value}"
            for (start, kind), (target, make) in TRANSITIONS.items()
            if start is phase and target is phase
        ]
        lines.append(f"| {phase.value} | {'; '.join(stays)} |")
    return "\n".join(lines)
