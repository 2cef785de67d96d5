# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's records, as a node gives them, and as lines for people. Pure."""

import json
from collections.abc import Mapping

Record = Mapping[str, object]


def parse_records(text: str) -> tuple[Record, ...]:
    """The agent's records, one JSON object a line; a line that is cut off (the power was) is left out."""
    records: list[Record] = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return tuple(records)


def readable(line: str) -> str:
    """A record as a line to read, as `journalctl` would show it; any other line as it is."""
    end = "\n" if line.endswith("\n") else ""
    for record in parse_records(line) if line.startswith("{") else ():
        if "message" in record:
            return f"{record.get('t', '')} {record['message']}{end}"
    return line
