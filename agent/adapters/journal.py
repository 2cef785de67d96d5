# SPDX-License-Identifier: GPL-2.0-or-later
"""Where records go: journald where there is one, else a file with a JSON object in each line.

Hard facts
* journald takes an entry as one datagram (systemd.io/JOURNAL_NATIVE_PROTOCOL) and does not make the sender
  wait for the disk. Its queue is short, though, and libsystemd's sender (systemd.journal.send) waits for
  room in it: behind a journald that hangs a failover would wait as well. So this sender never waits. What
  does not go out is kept, up to MAX_WAITING records, and sent later in the same order; beyond that it is
  lost and counted.
* Each record has the moment at which it was made (HAFW_MONO_NS), so a late one tells no lie.
* Any local user may send entries that look like ours; _UID, which the journal adds itself, says who did.
"""

import contextlib
import errno
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain, islice
from pathlib import Path

import structlog
from systemd import journal

from agent.errors import HafwError
from agent.model.records import (
    MESSAGE_IDS,
    Record,
    from_journal,
    to_fields,
    to_journal,
    with_current_names,
)
from agent.paths import Paths
from agent.regular_file import UnfitFileError, read_regular

MAX_LINE = 64 * 1024
MAX_FILE = 16 << 20
"""A JSON log this long is put aside once (`.1`), so that it never fills a disk by itself."""


MAX_WAITING = 1000
MAX_VALUE = 32 * 1024
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
JOURNALS = (Path("/run/log/journal"), Path("/var/log/journal"))


class JournalSink:
    def __init__(self, path: Path) -> None:
        self.lost = 0
        self._path = str(path)
        self._waiting: deque[bytes] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def write(self, record: Record) -> None:
        self._waiting.append(to_datagram({"MESSAGE": record.message, **to_journal(record)}))
        self.flush()
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.lost += 1

    def flush(self) -> None:
        """Send what waits, oldest first, as far as that goes without waiting."""
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], self._path)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    return
                self.lost += 1
            self._waiting.popleft()

    def close(self) -> None:
        self._socket.close()


def to_datagram(fields: Mapping[str, str]) -> bytes:
    """As journald's native protocol has it. Every value is sent with its length: it may hold anything."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="replace")[:MAX_VALUE]
        parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
    return b"".join(parts)


class FileSink:
    """`t` is the wall clock (RFC 3339, UTC)."""

    def __init__(self, path: Path) -> None:
        self._file = _LineFile(path)
        self._log = structlog.wrap_logger(
            self._file,
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="t"),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        )

    @property
    def lost(self) -> int:
        return self._file.lost

    def write(self, record: Record) -> None:
        fields = to_fields(record)
        self._log.info(fields.pop("event"), **fields, boot=_boot())

    def flush(self) -> None:
        """Nothing waits: every line is written at once."""

    def close(self) -> None:
        """Nothing is open between two lines."""


class _LineFile:
    """What structlog writes to. The file is opened for each line, since it is put aside now and then."""

    def __init__(self, path: Path) -> None:
        self.lost = 0
        self._path = path

    def info(self, line: str) -> None:
        try:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.write(descriptor, line.encode() + b"\n")
                if os.fstat(descriptor).st_size > MAX_FILE:
                    os.replace(self._path, self._path.with_suffix(".jsonl.1"))
            finally:
                os.close(descriptor)
        except OSError:
            self.lost += 1


def _boot() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip().replace("-", "")
    except OSError:
        return ""


def open_sink(paths: Paths) -> JournalSink | FileSink:
    if paths.journal_socket.exists():
        return JournalSink(paths.journal_socket)
    return FileSink(paths.log_file)


def read_records(paths: Paths, max_count: int, since: datetime | None = None) -> list[dict[str, object]]:
    """The newest `max_count` records that are not older than `since`, oldest first, of all boots. `t` is the
    moment, `boot` the boot's identity. Lines that are none of ours are skipped. Raises HafwError when
    they cannot be read."""
    found = [
        *(
            _read_journal(max_count)
            if paths.journal_socket.exists()
            else _read_file(paths.log_file, max_count)
        )
    ]
    return [record for record in found if since is None or _is_since(record, since)]


def _is_since(record: Mapping[str, object], since: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(record["t"])) >= since
    except (KeyError, ValueError, TypeError):
        return False


def _read_journal(max_count: int) -> Iterator[dict[str, object]]:
    if os.geteuid() != 0 and not any(os.access(path, os.R_OK) for path in _find_system_journals()):
        raise HafwError(
            f"user {os.geteuid()} may not read the agent's records in the journal",
            "run as root, or as a member of the group systemd-journal",
        )
    reader = journal.Reader()
    for identity in MESSAGE_IDS.values():
        reader.add_match(MESSAGE_ID=identity)
    reader.add_match(_UID=0)
    reader.seek_tail()
    # get_previous() stops at an entry and returns it; iterating continues with the one behind it
    first = reader.get_previous(max_count)
    for entry in chain([first] if first else [], islice(reader, max_count - 1)):
        record = from_journal(entry)
        record["t"] = entry["__REALTIME_TIMESTAMP"].astimezone().isoformat()
        record["boot"] = entry["_BOOT_ID"].hex
        yield record


def _find_system_journals() -> Iterator[Path]:
    for directory in JOURNALS:
        with contextlib.suppress(OSError):
            yield from directory.glob("*/system.journal")


def _read_file(path: Path, max_count: int) -> Iterator[dict[str, object]]:
    lines: list[bytes] = []
    for name in (path.with_suffix(".jsonl.1"), path):
        try:
            lines += read_regular(name, 2 * MAX_FILE, else_do="run as root").splitlines()
        except UnfitFileError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    for line in lines[-max_count:]:
        try:
            record = json.loads(line[:MAX_LINE])
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and "event" in record:
            yield with_current_names(record)
