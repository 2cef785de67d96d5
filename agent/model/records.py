# SPDX-License-Identifier: GPL-2.0-or-later
"""Records: what the agent did, one for each step and one for the transition it belongs to. Pure.

The same record becomes journal fields (HAFW_...), a JSON line, or a row of `hafw history`.
"""

from dataclasses import dataclass, fields
from enum import Enum


class RecordKind(Enum):
    """One MESSAGE_ID for each kind, fixed forever, so that a filter written today works in ten years."""

    STARTED = "started"
    STOPPED = "stopped"
    TRANSITION = "transition"
    STEP = "step"
    ALARM = "alarm"
    RECOVERED = "recovered"
    REFUSED = "refused"
    RULES = "rules"
    """Another policy is in force, or an unfinished apply was brought to its end."""
    MAINTENANCE = "maintenance"
    """This node is in maintenance (at its beginning, at a start, and once a day), or is not any more."""
    HANDOVER = "handover"
    """A planned handover: its beginning, its end, or why there is none."""
    DRILL = "drill"
    """A handover and one back, to try them: what came of it."""
    OVERRUN = "overrun"
    """We computed longer without a pause than a real-time process should."""


MESSAGE_IDS = {
    RecordKind.STARTED: "0f5e2b7a9d1c4a60b7c33c1e52a0d101",
    RecordKind.STOPPED: "0f5e2b7a9d1c4a60b7c33c1e52a0d102",
    RecordKind.TRANSITION: "0f5e2b7a9d1c4a60b7c33c1e52a0d103",
    RecordKind.STEP: "0f5e2b7a9d1c4a60b7c33c1e52a0d104",
    RecordKind.ALARM: "0f5e2b7a9d1c4a60b7c33c1e52a0d105",
    RecordKind.RECOVERED: "0f5e2b7a9d1c4a60b7c33c1e52a0d106",
    RecordKind.REFUSED: "0f5e2b7a9d1c4a60b7c33c1e52a0d107",
    RecordKind.RULES: "0f5e2b7a9d1c4a60b7c33c1e52a0d108",
    RecordKind.OVERRUN: "0f5e2b7a9d1c4a60b7c33c1e52a0d1b0",
    RecordKind.MAINTENANCE: "6c18348155384d98b2e92c5329faaedb",
    RecordKind.HANDOVER: "274102e28eaf456cb12c57f3143b225b",
    RecordKind.DRILL: "8c98fba223e94699b44a60d09af4776d",
}

PRIORITIES = {
    RecordKind.ALARM: 4,
    RecordKind.REFUSED: 4,
    RecordKind.OVERRUN: 4,
    RecordKind.TRANSITION: 5,
    RecordKind.RULES: 5,
    RecordKind.MAINTENANCE: 5,
    RecordKind.HANDOVER: 5,
    RecordKind.DRILL: 5,
    RecordKind.STEP: 6,
}
"""syslog's numbers; 6 (informational) for whatever is not listed."""


class Ending(Enum):
    """How a step or a transition ended."""

    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"
    """A step that a newer change made unnecessary."""
    PARTIAL = "partial"
    """A commit that brought in fewer states than it should have."""
    SKIPPED = "skipped"
    """A commit that conntrackd did not start."""
    SUPERSEDED = "superseded"
    """A transition that a newer one replaced."""


@dataclass(frozen=True, slots=True)
class Record:
    """`mono_ns` is CLOCK_MONOTONIC at the end of what is recorded; `result`: the value of an Ending."""

    event: RecordKind
    message: str
    mono_ns: int
    transition: str | None = None
    from_role: str | None = None
    to_role: str | None = None
    trigger: str | None = None
    step: str | None = None
    duration_ms: float | None = None
    result: str | None = None
    notified_to_open_ms: float | None = None
    expected: int | None = None
    committed: int | None = None
    condition: str | None = None
    doubt: str | None = None
    """Why states may be missing to a new primary."""


_NAMES = {"from_role": "from", "to_role": "to"}
_FORMER_NAMES = {"source": "trigger"}
"""Of records from before a rename, which the journal and the log keep."""


def to_fields(record: Record) -> dict[str, str | int | float]:
    """The record as a flat mapping, without what does not apply."""
    found: dict[str, str | int | float] = {}
    for field in fields(Record):
        value = getattr(record, field.name)
        if value is not None:
            found[_NAMES.get(field.name, field.name)] = value.value if isinstance(value, Enum) else value
    return found


def to_journal(record: Record) -> dict[str, str]:
    """As fields of the journal; durations in microseconds, as systemd has them."""
    found = {
        "MESSAGE_ID": MESSAGE_IDS[record.event],
        "PRIORITY": str(PRIORITIES.get(record.event, 6)),
        "SYSLOG_IDENTIFIER": "hafw-agent",
    }
    for name, value in to_fields(record).items():
        if name == "message":
            continue
        if name.endswith("_ms"):
            found[f"HAFW_{name[:-3].upper()}_USEC"] = str(round(float(value) * 1000))
        else:
            found[f"HAFW_{name.upper()}"] = str(value)
    return found


def from_journal(entry: dict[str, object]) -> dict[str, object]:
    """The inverse of to_journal, for `hafw history`. Any entry is accepted: another program may have written
    it."""
    found: dict[str, object] = {"message": str(entry.get("MESSAGE", ""))}
    for name, value in entry.items():
        if not name.startswith("HAFW_"):
            continue
        key = name[5:].lower()
        text = str(value)
        is_number = text.isascii() and text.isdigit() and len(text) < 20
        if key.endswith("_usec") and is_number:
            found[key[:-5] + "_ms"] = int(text) / 1000
        elif key in ("mono_ns", "expected", "committed") and is_number:
            found[key] = int(text)
        else:
            found[key] = text
    return with_current_names(found)


def with_current_names(record: dict[str, object]) -> dict[str, object]:
    return {_FORMER_NAMES.get(name, name): value for name, value in record.items()}
