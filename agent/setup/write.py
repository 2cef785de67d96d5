"""Writes the changes of `hafw setup`: each file is the old one or the new one at every moment.

Cut off anywhere (power, kill -9, a full disk), a second run completes the rest: what is written is no longer
a change, and a temporary file that was left has a fixed name, which the next run takes for itself.
"""

import contextlib
import fcntl
import glob
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from agent.errors import HafwError
from agent.setup.changes import Change, read_file

BACKUP_SUFFIX = ".before-hafw"
# no daemon reads names with a dot in front and this end
_TEMPORARY = ".hafw-new"


@contextlib.contextmanager
def start_writing(root: Path) -> Iterator[None]:
    """Only one setup at a time writes below `root`. Raises HafwError when another one does."""
    directory = root / "etc"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _explained(directory, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HafwError(
                f"another hafw setup is writing below {directory}", "wait for its end"
            ) from error
        yield
    finally:
        os.close(descriptor)


def write_change(change: Change, now: datetime) -> Path | None:
    """Carries out one change; gives the place of the backup when there was something to keep.

    Raises HafwError; the file is then as it was, or as someone else has made it in the meantime.
    """
    target = change.target
    if read_file(target) != change.old:
        raise HafwError(f"{change.path} has changed since it was compared", "run hafw setup again")
    try:
        _make_directory(target.parent)
        for left in target.parent.glob(f".{glob.escape(target.name)}*{_TEMPORARY}"):
            left.unlink()
        backup = _keep_backup(change, now) if change.old is not None else None
        if change.new is None:
            target.unlink()
        else:
            _replace(target, change.new, change.mode)
        _sync_directory(target.parent)
    except OSError as error:
        raise _explained(change.path, error) from error
    return backup


def _explained(path: Path, error: OSError) -> HafwError:
    hint = (
        "run it as root" if isinstance(error, PermissionError) else "correct that, then run hafw setup again"
    )
    return HafwError(f"cannot write {path}: {error.strerror}", hint)


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        _make_directory(directory.parent)
        directory.mkdir(mode=0o755, exist_ok=True)
        _sync_directory(directory.parent)


def _replace(target: Path, content: bytes, mode: int) -> None:
    temporary = _write_temporary(target, target, content, mode)
    try:
        os.replace(temporary, target)
    except OSError:
        temporary.unlink()
        raise


def _write_temporary(target: Path, like: Path, content: bytes, mode: int) -> Path:
    """A whole file beside `target`, on the disk, with owner and mode of `like` if that is there."""
    temporary = target.with_name(f".{target.name}{_TEMPORARY}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            _take_after(like, descriptor, mode)
            os.fsync(descriptor)
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _take_after(like: Path, descriptor: int, mode: int) -> None:
    own = os.fstat(descriptor)
    try:
        there = like.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, mode)
        return
    if (there.st_uid, there.st_gid) != (own.st_uid, own.st_gid):
        os.fchown(descriptor, there.st_uid, there.st_gid)
    os.fchmod(descriptor, there.st_mode & 0o7777)


def _keep_backup(change: Change, now: datetime) -> Path:
    """The first backup of a file is never written again; later ones carry the time."""
    content = change.old or b""
    first = change.target.with_name(change.target.name + BACKUP_SUFFIX)
    dated = first.with_name(f"{first.name}-{now:%Y%m%d-%H%M%S}")
    for place in (first, *(dated.with_name(dated.name + end) for end in ("", ".2", ".3", ".4"))):
        if _is_kept(place, change.target, content):
            return place
    raise HafwError(f"there are too many backups named {dated}", "wait a second, then run hafw setup again")


def _is_kept(place: Path, target: Path, content: bytes) -> bool:
    """Is the content at `place` now? Not if something else is there."""
    if os.path.lexists(place):
        return not place.is_symlink() and place.is_file() and place.read_bytes() == content
    temporary = _write_temporary(place, target, content, 0o600)
    try:
        os.link(temporary, place)  # unlike a rename, replaces nothing
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_directory(place.parent)
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
