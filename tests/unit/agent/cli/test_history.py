# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw history` across boots, and from a moment on."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.adapters import journal
from agent.adapters.journal import FileSink, read_records
from agent.cli.history import parse_since, to_table
from agent.model.records import Record, RecordKind
from agent.paths import Paths

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=1)))


def test_a_line_stands_between_two_boots() -> None:
    records = [{"message": word, "boot": boot} for word, boot in (("a", "b1"), ("b", "b1"), ("c", "b2"))]
    lines = to_table(records).splitlines()[1:]
    assert [line.strip() for line in lines] == ["a", "b", "-- rebooted: boot b2 --", "c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("30min", NOW - timedelta(minutes=30)),
        ("45s", NOW - timedelta(seconds=45)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-02-28", NOW.replace(month=2, day=28, hour=0)),
        ("2026-02-28 13:05", NOW.replace(month=2, day=28, hour=13, minute=5)),
        ("2026-02-28T13:05:00+00:00", datetime(2026, 2, 28, 13, 5, tzinfo=UTC)),
    ],
)
def test_a_moment_in_words(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2 hours", "-1h", "1e9s", "2026-13-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_since(text, NOW)


def test_records_of_two_boots_and_only_the_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(log_file=tmp_path / "agent.jsonl", journal_socket=tmp_path / "no-journald")
    boots = []
    for number in (1, 2):
        (tmp_path / "boot").write_text(f"0000-{number}\n")
        monkeypatch.setattr(journal, "BOOT_ID", tmp_path / "boot")
        if number == 2:
            boots.append(datetime.now(UTC))
        FileSink(paths.log_file).write(Record(RecordKind.STARTED, f"boot {number}", number))
    assert [record["boot"] for record in read_records(paths, 10)] == ["00001", "00002"]
    assert [record["message"] for record in read_records(paths, 10, boots[0])] == ["boot 2"]
