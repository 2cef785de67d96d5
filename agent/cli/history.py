# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw history`: records as a table. Pure."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

_MARKS = {"alarm": "!", "refused": "!", "transition": "=", "recovered": "+"}
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def to_table(records: Iterable[Mapping[str, object]]) -> str:
    """A line each: when, which transition, how long, what. Between two boots stands a line."""
    lines = [f"{'time':<27} {'transition':<12} {'ms':>10}  what"]
    before = ""
    for record in records:
        boot = _text(record, "boot")
        if boot and boot != before:
            if before:
                lines.append(f"-- rebooted: boot {boot} --")
            before = boot
        duration = record.get("duration_ms")
        took = f"{duration:.1f}" if isinstance(duration, int | float) else ""
        mark = _MARKS.get(str(record.get("event")), " ")
        when, transition = _text(record, "t"), _text(record, "transition")
        lines.append(f"{when:<27} {transition:<12} {took:>10} {mark} {_text(record, 'message')}")
    return "\n".join(lines) + "\n"


def parse_since(text: str, now: datetime) -> datetime:
    """`2h`, `30min`, `45s`, `7d` before `now`, or a date with or without a time of day, of the zone of
    `now`. Raises ValueError for anything else."""
    ago = re.fullmatch(r"([0-9]{1,6})(s|min|h|d)", text.strip())
    if ago:
        return now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
    given = datetime.fromisoformat(text.strip())
    return given if given.tzinfo else given.replace(tzinfo=now.tzinfo)


def _text(record: Mapping[str, object], name: str) -> str:
    """As printable text: another program may have written a record."""
    text = str(record.get(name) or "")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
