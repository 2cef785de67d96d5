"""The pair files that were in force, kept on disk: the last ten, the one that waits to be confirmed, and the
way from one of them into the place where the agent reads it.

A power cut at any moment leaves the old or the new. Every file is written beside its place, brought to the
disk, renamed, and its directory brought to the disk. A pair file that includes others is several files:
`installing` names the generation that is being put in place, and whoever comes next, the agent at its start
or a command, puts it there to the end.

An apply, a roll-back, a reload and the start of the agent add a generation whenever the files are not those
of the newest one, so that is the one in force, unless a kill has kept it from its place.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from agent.errors import HafwError

Files = tuple[tuple[str, str], ...]
"""Names and texts: the main file first, under whatever name; the others relative to its directory."""

KEPT = 10
MOST_BYTES = 16 << 20
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


def boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


class Generations:
    """Raises HafwError from everything that cannot read or write."""

    def __init__(self, state_dir: Path) -> None:
        self._state = state_dir
        self._directory = state_dir / "generations"

    def known(self) -> tuple[Generation, ...]:
        """Oldest first. One that cannot be read is none."""
        found = (self.find(number) for number in self._numbers())
        return tuple(generation for generation in found if generation is not None)

    def newest(self) -> Generation | None:
        return next((one for number in reversed(self._numbers()) if (one := self.find(number))), None)

    def find(self, number: int) -> Generation | None:
        try:
            return _generation(_read(self._path(number)))
        except (HafwError, ValueError, KeyError, TypeError):
            return None

    def require(self, number: int) -> Generation:
        found = self.find(number)
        if found is None:
            known = ", ".join(str(one) for one in self._numbers()) or "there are none"
            raise HafwError(f"there is no generation {number}", f"known: {known}")
        return found

    def add(self, files: Files, who: str, why: str, rules: str) -> Generation:
        """On disk when this returns. The oldest ones go, but none that a pending apply needs."""
        numbers = self._numbers()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        fresh = Generation((numbers or (0,))[-1] + 1, at, who, why, rules, _safe(files))
        with _explained(self._directory):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self._path(fresh.number), json.dumps(asdict(fresh), indent=1))
        pending = self.pending()
        needed = {pending.number, pending.back_to} if pending else set()
        for number in (*numbers, fresh.number)[:-KEPT]:
            if number not in needed:
                self.drop(number)
        return fresh

    def drop(self, number: int) -> None:
        _remove(self._path(number))

    def note(self, files: Files, who: str, why: str, rules: str) -> Generation:
        """The newest generation, which is a new one if `files` are not those of the newest."""
        newest = self.newest()
        if newest is not None and same_files(newest.files, files):
            return newest
        return self.add(files, who, why, rules)

    def install(self, number: int, pair_file: Path) -> None:
        """Puts the files of a generation where the agent reads them. A cut is made good by finish()."""
        files = self.require(number).files
        _write(self._installing, json.dumps({"number": number}))
        main = pair_file.resolve()  # a link stays one
        for name, text in files[1:]:
            _write(main.parent / name, text, mode=_mode_of(main.parent / name))
        _write(main, files[0][1], mode=_mode_of(main))
        _remove(self._installing)

    def finish(self, pair_file: Path) -> str | None:
        """What a power cut or a kill has left to do: an install to its end, a roll-back that is due.

        Says what it did. The rules in the kernel are not its business.
        """
        done = None
        if self._installing.exists():
            number = _read(self._installing).get("number")
            if not isinstance(number, int):
                raise HafwError(f"{self._installing} cannot be understood", "remove it")
            self.install(number, pair_file)
            done = f"put generation {number} in place to the end"
        pending = self.pending()
        if pending is not None and pending.is_due():
            self.install(pending.back_to, pair_file)
            self.clear_pending()
            done = f"generation {pending.number} was not confirmed; back to generation {pending.back_to}"
        return done

    def pending(self) -> Pending | None:
        if not self._pending.exists():
            return None
        found = _read(self._pending)
        try:
            return Pending(
                str(found["identity"]),
                int(found["number"]),
                int(found["back_to"]),
                float(found["deadline_s"]),
                str(found["boot"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise HafwError(f"{self._pending} cannot be understood", "remove it") from error

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
        with _explained(self._directory):
            names = (
                [path.stem for path in self._directory.glob("*.json")] if self._directory.exists() else []
            )
        return tuple(sorted(int(name) for name in names if name.isascii() and name.isdigit()))


def _generation(found: dict[str, Any]) -> Generation:
    files = tuple((str(name), str(text)) for name, text in found["files"])
    at, who, why, rules = (str(found[name]) for name in ("at", "who", "why", "rules"))
    return Generation(int(found["number"]), at, who, why, rules, _safe(files))


def _safe(files: Files) -> Files:
    """Nothing outside of the directory of the main file is ever written."""
    for name, _ in files[1:]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise HafwError(f"the included file {name} is not below the directory of the pair file")
    if not files:
        raise HafwError("a generation has at least the pair file")
    return files


def same_files(these: Files, those: Files) -> bool:
    """The name of the main file does not count: it is installed under its one name."""
    return these[0][1] == those[0][1] and sorted(these[1:]) == sorted(those[1:])


def _read(path: Path) -> dict[str, Any]:
    with _explained(path), path.open("rb") as file:
        raw = file.read(MOST_BYTES)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise HafwError(f"{path} cannot be understood") from error
    if not isinstance(found, dict):
        raise HafwError(f"{path} cannot be understood")
    return found


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    """The whole of it or nothing, whatever happens; who reads meanwhile reads the old or the new."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(fresh, "w", encoding="utf-8", newline="", opener=_open_private) as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        _sync_directory(path.parent)


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return 0o640


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _remove(path: Path) -> None:
    with _explained(path):
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HafwError(f"cannot use {path}: {error.strerror}", "run as root; is the disk full?") from error
