# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair files that were in force, kept on disk: the last ten, the one that waits to be confirmed, and the
way from one of them into the place where the agent reads it.

A power cut at any moment leaves the old or the new. Every file is written beside its place, brought to the
disk, renamed, and its directory brought to the disk. A pair file that includes others is several files:
`installing` names the generation that is being put in place, and the next process, the agent at its start
or a command, puts it there to the end.

An apply, a rollback, a reload and the start of the agent add a generation whenever the files are not those
of the newest one, so that is the one in force, unless a kill has kept it from its place.

What is found here may be anything: a cut disk, another version or an editor may have left it. A generation
that is invalid is skipped; an invalid note of an unfinished apply is put aside and
reported.
"""

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.adapters import atomic_file
from agent.config.files import MAX_ALL_BYTES, NAME, Files
from agent.errors import HafwError
from agent.file_cures import cure_of
from agent.regular_file import read_regular

KEPT = 10
MAX_BYTES = 2 * MAX_ALL_BYTES + (64 << 10)
"""JSON makes two bytes of a quote or the end of a line, and the files have no other control characters."""
MAX_NOTE_BYTES = 64 << 10
LAST_NUMBER = 999_999_999
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Generation:
    """`at` is in UTC; `rules` is the digest of the table that was made of it."""

    number: int
    at: str
    who: str
    why: str
    rules: str
    files: Files


@dataclass(frozen=True, slots=True)
class Pending:
    """Generation `number` goes back to `back_to` at `deadline_s` (CLOCK_BOOTTIME), or when `boot` has
    ended."""

    identity: str
    number: int
    back_to: int
    deadline_s: float
    boot: str

    def is_due(self) -> bool:
        return self.boot != boot_id() or self.remaining_s() <= 0

    def remaining_s(self) -> float:
        return self.deadline_s - time.clock_gettime(time.CLOCK_BOOTTIME)

    def describe(self) -> str:
        left_s = max(0.0, self.remaining_s())
        return f"generation {self.back_to} comes back in {left_s:.0f} s unless you say: hafw rules confirm"


def boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


class Generations:
    """What one command, or the agent, asks about them: each is read when it is first asked for, and not
    again. Raises HafwError from everything that cannot read or write."""

    def __init__(self, state_dir: Path) -> None:
        self._state = state_dir
        self._directory = state_dir / "generations"
        self._found: dict[int, Generation | HafwError] = {}

    def known(self) -> tuple[Generation, ...]:
        """Oldest first, and all of them read. One that cannot be read is none."""
        return tuple(reversed((*self.newest_first(),)))

    def newest_first(self) -> Iterator[Generation]:
        """For a search: those behind it are not read."""
        for number in reversed(self._numbers()):
            found = self._look(number)
            if isinstance(found, Generation):
                yield found

    def newest(self) -> Generation | None:
        return next(self.newest_first(), None)

    def require(self, number: int) -> Generation:
        if number in self._numbers():
            found = self._look(number)
            if isinstance(found, Generation):
                return found
            raise found
        known = ", ".join(str(one.number) for one in self.known()) or "there are none"
        raise HafwError(f"there is no generation {number}", f"known: {known}")

    def unusable(self) -> tuple[str, ...]:
        """Why each of those that known() skips is none."""
        found = (self._found.get(number) or self._try(number) for number in self._numbers())
        return tuple(str(one) for one in found if isinstance(one, HafwError))

    def _look(self, number: int) -> Generation | HafwError:
        if number not in self._found:
            self._found[number] = self._try(number)
        return self._found[number]

    def _try(self, number: int) -> Generation | HafwError:
        try:
            return self._read_one(number)
        except HafwError as error:
            return error

    def _read_one(self, number: int) -> Generation:
        path = self._path(number)
        found = _read(path, MAX_BYTES)
        with _understood(path):
            if found["number"] != number:
                raise ValueError  # the copy of another one
            return _generation(found)

    def add(self, files: Files, who: str, why: str, rules: str, at_least: int = 0) -> Generation:
        """On disk when this returns, with the number `at_least` or a higher one. The oldest ones go, but not
        what a pending apply needs."""
        numbers = self._numbers()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        number = max((numbers or (0,))[-1] + 1, at_least)
        fresh = Generation(number, at, who, why, rules, _safe(files))
        with _explained(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self._path(fresh.number), json.dumps(asdict(fresh), indent=1, ensure_ascii=False))
        self._found[fresh.number] = fresh
        pending = self.pending()
        needed = {pending.number, pending.back_to} if pending else set()
        for number in (*numbers, fresh.number)[:-KEPT]:
            if number not in needed:
                self.drop(number)
        return fresh

    def drop(self, number: int) -> None:
        self._found.pop(number, None)
        _remove(self._path(number))

    def note(self, files: Files, who: str, why: str, rules: str, at_least: int = 0) -> Generation:
        """The newest generation, which is a new one if `files` are not those of the newest, or its number is
        less than `at_least`."""
        newest = self.newest()
        if newest is not None and same_files(newest.files, files) and newest.number >= at_least:
            return newest
        return self.add(files, who, why, rules, at_least)

    def install(self, number: int, pair_file: Path) -> None:
        """Puts the files of a generation where the agent reads them. A cut is made good by finish()."""
        files = self.require(number).files
        _write(self._installing, json.dumps({"number": number}))
        main = Path(os.path.realpath(pair_file))  # a link stays one
        for name, text in (*files[1:], (main.name, files[0][1])):
            _install(main.parent / name, text)
        _remove(self._installing)

    def leave_installing(self) -> None:
        """What was begun is not brought to its end."""
        _remove(self._installing)

    def is_unfinished(self) -> bool:
        """Whether finish() may have anything to do."""
        return os.path.lexists(self._installing) or os.path.lexists(self._pending)

    def finish(self, pair_file: Path) -> str | None:
        """What a power cut or a kill has left to do: an install to its end, a rollback that is due.

        Says what it did. The rules in the kernel are not its business.
        """
        done = (self._finish_installing(pair_file), self._finish_pending(pair_file))
        return "; ".join(one for one in done if one is not None) or None

    def _finish_installing(self, pair_file: Path) -> str | None:
        if not os.path.lexists(self._installing):
            return None
        try:
            found = _read(self._installing, MAX_NOTE_BYTES)
            with _understood(self._installing):
                number = _integer(found, "number")
            self.require(number)
        except HafwError as error:
            return self._put_aside(self._installing, error)
        self.install(number, pair_file)
        return f"finish putting generation {number} in place"

    def _finish_pending(self, pair_file: Path) -> str | None:
        if not os.path.lexists(self._pending):
            return None
        try:
            pending = self._read_pending()
            if not pending.is_due():
                return None
            self.require(pending.back_to)
        except HafwError as error:
            return self._put_aside(self._pending, error)
        self.install(pending.back_to, pair_file)
        self.clear_pending()
        return f"generation {pending.number} was not confirmed; back to generation {pending.back_to}"

    def _put_aside(self, note: Path, error: HafwError) -> str:
        """So that it is out of the way, and reported once."""
        aside = note.with_name(f"{note.name}.unusable")
        with _explained(note):
            os.rename(note, aside)
            atomic_file.sync_directory(note.parent)
        return f"an unfinished apply is left as it is, its note is kept in {aside}: {error}"

    def pending(self) -> Pending | None:
        """None also when it is invalid; finish() says so."""
        try:
            return self.find_pending()
        except HafwError:
            return None

    def find_pending(self) -> Pending | None:
        """HafwError when there is one that cannot be read."""
        return self._read_pending() if os.path.lexists(self._pending) else None

    def _read_pending(self) -> Pending:
        found = _read(self._pending, MAX_NOTE_BYTES)
        with _understood(self._pending):
            return Pending(
                _text(found, "identity"),
                _integer(found, "number"),
                _integer(found, "back_to"),
                _seconds(found, "deadline_s"),
                _text(found, "boot"),
            )

    def set_pending(self, pending: Pending) -> None:
        _write(self._pending, json.dumps(asdict(pending)))

    def clear_pending(self) -> None:
        _remove(self._pending)

    @property
    def _pending(self) -> Path:
        return self._state / "pending"

    @property
    def _installing(self) -> Path:
        return self._state / "installing"

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}.json"

    def _numbers(self) -> tuple[int, ...]:
        # not glob(), to which a directory that may not be read is an empty one
        with _explained(self._directory):
            found = os.listdir(self._directory) if self._directory.is_dir() else []
        names = (name.removesuffix(".json") for name in found if name.endswith(".json"))
        return tuple(sorted(int(name) for name in names if _NUMBER.fullmatch(name)))


def _generation(found: Mapping[str, Any]) -> Generation:
    if not isinstance(found["files"], list):
        raise TypeError
    files = tuple((_checked(name), _checked(text)) for name, text in found["files"])
    at, who, why, rules = (_text(found, name) for name in ("at", "who", "why", "rules"))
    if _find_unsafe(files) is not None:
        raise ValueError
    return Generation(_integer(found, "number"), at, who, why, rules, files)


def _integer(found: Mapping[str, Any], name: str) -> int:
    value = found[name]
    if type(value) is not int or not 0 < value <= LAST_NUMBER:
        raise ValueError
    return value


def _seconds(found: Mapping[str, Any], name: str) -> float:
    value = found[name]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _text(found: Mapping[str, Any], name: str) -> str:
    return _checked(found[name])


def _checked(value: object) -> str:
    """JSON can say half a character, which no file takes."""
    if not isinstance(value, str):
        raise TypeError
    value.encode()
    return value


def _safe(files: Files) -> Files:
    unsafe = _find_unsafe(files)
    if unsafe is not None:
        raise HafwError(unsafe)
    return files


def _find_unsafe(files: Files) -> str | None:
    """Nothing outside of the directory of the main file is ever written."""
    for name, _ in files[1:]:
        if not NAME.fullmatch(name):
            return f"the included file {name!a} is not below the directory of the pair file"
    return None if files else "a generation must have the pair file"


def same_files(these: Files, those: Files) -> bool:
    """The name of the main file does not count: it is installed under its one name."""
    return these[0][1] == those[0][1] and sorted(these[1:]) == sorted(those[1:])


def _read(path: Path, max_bytes: int) -> dict[str, Any]:
    raw = read_regular(path, max_bytes)
    with _understood(path):
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise TypeError
        return found


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise HafwError(f"{path} is invalid") from error


def _write(path: Path, text: str) -> None:
    with _explained(path):
        atomic_file.make_directory(path.parent)
        atomic_file.write(path, text, durable=True)


def _install(path: Path, text: str) -> None:
    """With the mode and the group of what is there; the agent may not give away a file, so that it keeps the
    mode alone."""
    with _explained(path):
        atomic_file.make_directory(path.parent)
        atomic_file.sweep(path)
        mode, group = _access_to(path)
        atomic_file.write(path, text, mode, group=group, durable=True)


def _access_to(path: Path) -> tuple[int, int | None]:
    try:
        found = path.stat()
    except OSError:
        return 0o640, None
    return found.st_mode & 0o777, found.st_gid


def _remove(path: Path) -> None:
    with _explained(path):
        atomic_file.remove(path)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HafwError(f"cannot use {path}: {error.strerror}", cure_of(error)) from error
