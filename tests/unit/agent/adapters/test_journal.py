# SPDX-License-Identifier: GPL-2.0-or-later
"""Records on their way out and back in."""

import json
import socket
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters import journal
from agent.adapters.journal import (
    MAX_WAITING,
    FileSink,
    JournalSink,
    open_sink,
    read_records,
    to_datagram,
)
from agent.cli.history import to_table
from agent.model.records import Record, RecordKind, from_journal, to_fields, to_journal
from agent.paths import Paths


def make_paths(tmp_path: Path) -> Paths:
    return Paths(log_file=tmp_path / "log" / "agent.jsonl", journal_socket=tmp_path / "no-journald")


def make_record(message: str = "something") -> Record:
    return Record(
        RecordKind.TRANSITION,
        message,
        123456789,
        transition="0123456789ab",
        from_role="backup",
        to_role="primary",
        trigger="notify GROUP G1 MASTER",
        duration_ms=1.5,
        result="done",
        notified_to_open_ms=1.25,
        expected=500,
        committed=499,
    )


texts = st.text(max_size=60)
numbers = st.none() | st.integers(0, 2**63 - 1)
# the journal has whole microseconds
times = st.none() | st.integers(0, 10**12).map(lambda us: us / 1000)
records = st.builds(
    Record,
    event=st.sampled_from(RecordKind),
    message=texts,
    mono_ns=st.integers(0, 2**63 - 1),
    transition=st.none() | texts,
    from_role=st.none() | texts,
    to_role=st.none() | texts,
    trigger=st.none() | texts,
    step=st.none() | texts,
    duration_ms=times,
    result=st.none() | texts,
    notified_to_open_ms=times,
    expected=numbers,
    committed=numbers,
    condition=st.none() | texts,
)


@given(records)
def test_the_journal_gives_back_what_it_was_given(record: Record) -> None:
    entry: dict[str, object] = {**to_journal(record), "MESSAGE": record.message, "_PID": 1, "PRIORITY": 6}
    assert from_journal(entry) == to_fields(record)


@given(records)
def test_the_journal_takes_the_names_and_values(record: Record) -> None:
    for name, value in to_journal(record).items():
        assert name.isupper()
        assert name.replace("_", "").isalnum()
        assert not name.startswith("_")
        assert isinstance(value, str)


def test_every_line_is_a_json_object_and_comes_back(tmp_path: Path) -> None:
    paths = make_paths(tmp_path)
    sink = open_sink(paths)
    assert isinstance(sink, FileSink)
    before = datetime.now(UTC)
    messages = ["plain", 'quotes " and \\', "new\nline", "\x1b[2J\0", "ä \u2028 \U0001f600", "x" * 10_000]
    for message in messages:
        sink.write(make_record(message))
    lines = paths.log_file.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["message"] for line in lines] == messages
    found = read_records(paths, 100)
    assert [record["message"] for record in found] == messages
    rest = {"t": found[0]["t"], "boot": found[0]["boot"]}
    assert found[0] == {**to_fields(make_record("plain")), **rest}
    assert before <= datetime.fromisoformat(str(found[0]["t"])) <= datetime.now(UTC)
    assert sink.lost == 0
    assert paths.log_file.stat().st_mode & 0o777 == 0o640


def test_the_newest_come_last_and_no_more_than_asked_for(tmp_path: Path) -> None:
    paths = make_paths(tmp_path)
    for number in range(10):
        FileSink(paths.log_file).write(make_record(str(number)))
    assert [record["message"] for record in read_records(paths, 3)] == ["7", "8", "9"]


def test_what_cannot_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where the directory should be")
    sink = FileSink(make_paths(tmp_path).log_file)
    sink.write(make_record())
    sink.write(make_record())
    assert sink.lost == 2


def test_a_full_disk_is_counted(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "agent.jsonl").symlink_to("/dev/full")
    sink = FileSink(make_paths(tmp_path).log_file)
    sink.write(make_record())
    assert sink.lost == 1


def test_a_long_file_is_put_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_FILE", 2000)
    paths = make_paths(tmp_path)
    sink = FileSink(paths.log_file)
    for number in range(100):
        sink.write(make_record(str(number)))
    assert sink.lost == 0
    assert sum(each.stat().st_size for each in paths.log_file.parent.iterdir()) < 5000
    assert sorted(each.name for each in paths.log_file.parent.iterdir()) == ["agent.jsonl", "agent.jsonl.1"]
    found = [int(str(record["message"])) for record in read_records(paths, 100)]
    assert found == list(range(100 - len(found), 100)), "in order, and the newest are there"
    assert len(found) >= 5


GARBAGE = [
    b"",
    b"garbage",
    b"\xff\xfe\0",
    b"[]",
    b"null",
    b"1",
    b'"event"',
    b"{}",
    b'{"event":',
    b'{"message": "no event"}',
    b"[" * 60_000,
    b'{"event": "step", "message": "' + b"x" * 100_000,
]


def test_garbage_between_records_is_skipped(tmp_path: Path) -> None:
    paths = make_paths(tmp_path)
    FileSink(paths.log_file).write(make_record("first"))
    with paths.log_file.open("ab") as log:
        log.write(b"\n".join(GARBAGE) + b"\n")
    FileSink(paths.log_file).write(make_record("last"))
    assert [record["message"] for record in read_records(paths, 100)] == ["first", "last"]


def test_records_of_before_a_rename_have_the_new_names(tmp_path: Path) -> None:
    """The journal and the log keep what an earlier checkout wrote."""
    entry: dict[str, object] = {"MESSAGE": "x", "HAFW_" + "SOURCE": "netlink"}
    assert from_journal(entry) == {"message": "x", "trigger": "netlink"}
    paths = make_paths(tmp_path)
    paths.log_file.parent.mkdir()
    paths.log_file.write_text('{"event": "transition", "message": "x", "source": "netlink"}\n')
    assert [record.get("trigger") for record in read_records(paths, 1)] == ["netlink"]


def test_foreign_values_make_no_traceback_and_no_control_codes() -> None:
    foreign: list[dict[str, Any]] = [
        {"event": "step", "message": "\x1b[2J\nfake line", "t": 5, "duration_ms": "long", "transition": []},
        {"event": ["step"], "message": {"a": 1}, "t": None, "duration_ms": True},
    ]
    table = to_table(foreign)
    assert len(table.splitlines()) == 3
    assert "\x1b" not in table


def test_no_file_at_all(tmp_path: Path) -> None:
    assert read_records(make_paths(tmp_path), 10) == []


def test_where_there_is_a_journal_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    with closing(open_sink(Paths(journal_socket=tmp_path / "socket"))) as sink:
        assert isinstance(sink, JournalSink)


def test_a_journald_that_hangs_is_not_waited_for_and_gets_everything_later(tmp_path: Path) -> None:
    """As it is with a stopped one: its socket is there, and full after a few entries."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as journald:
        journald.bind(str(tmp_path / "socket"))
        journald.setblocking(False)
        sink = JournalSink(tmp_path / "socket")
        with closing(sink):
            numbers = list(range(MAX_WAITING))
            for number in numbers:
                sink.write(make_record(str(number)))  # would never come back
            assert sink.lost == 0
            read: list[int] = []
            while len(read) < len(numbers):
                try:
                    read.append(int(parse_entry(journald.recv(100_000))["MESSAGE"]))
                except BlockingIOError:
                    before = len(read)
                    sink.flush()
                    read.append(int(parse_entry(journald.recv(100_000))["MESSAGE"]))
                    assert len(read) > before
            assert read == numbers, "in order, and none is missing"


def test_what_does_not_fit_any_more_is_counted_and_the_newest_are_kept(tmp_path: Path) -> None:
    with closing(JournalSink(tmp_path / "nobody")) as sink:
        for number in range(MAX_WAITING + 5):
            sink.write(make_record(str(number)))
        assert sink.lost == 5
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as journald:
            journald.bind(str(tmp_path / "nobody"))
            sink.flush()
            assert parse_entry(journald.recv(100_000))["MESSAGE"] == "5"


def test_any_value_goes_over_whole(tmp_path: Path) -> None:
    message = "two\nlines, = and \0, ä \U0001f600"
    entry = parse_entry(to_datagram({"MESSAGE": message, "HAFW_STEP": ""}))
    assert entry == {"MESSAGE": message, "HAFW_STEP": ""}


def parse_entry(datagram: bytes) -> dict[str, str]:
    """As journald reads its native protocol."""
    found = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        length = int.from_bytes(rest[:8], "little")
        found[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        datagram = rest[9 + length :]
    return found


FORGED: list[dict[str, object]] = [
    {"MESSAGE": "x", "HAFW_MONO_NS": "x"},
    {"MESSAGE": "x", "HAFW_DURATION_USEC": ""},
    {"MESSAGE": b"\xff", "HAFW_EXPECTED": b"\xff"},
    {"MESSAGE": ["a", "b"], "HAFW_COMMITTED": ["1", "2"]},
    {"HAFW_": ""},
    {},
]


@pytest.mark.parametrize("entry", FORGED)
def test_an_entry_that_somebody_forged_makes_no_traceback(entry: dict[str, object]) -> None:
    """Every local user may write entries with our MESSAGE_ID."""
    record = from_journal(entry)
    assert to_table([record]).count("\n") == 2
    json.dumps(record)
