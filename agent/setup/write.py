# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the changes of `hafw setup`: each file is the old one or the new one at every moment.

Cut off anywhere (power, kill -9, a full disk), a second run completes the rest: what is written is no longer
a change, and a temporary file that was left is swept away.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from agent.adapters import atomic_file
from agent.errors import HafwError
from agent.file_cures import cure_of
from agent.setup.changes import FileChange, read_file
from agent.setup.key_rights import find_networkd_group

BACKUP_SUFFIX = ".before-hafw"


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


def write_change(change: FileChange, now: datetime) -> Path | None:
    """Carries out one change; gives the place of the backup when there was something to keep.

    Raises HafwError; the file is then as it was, or as another program has made it in the meantime.
    """
    target = change.target
    if read_file(target) != change.old:
        raise HafwError(f"{change.path} has changed since it was compared", "run hafw setup again")
    try:
        atomic_file.make_directory(target.parent)
        atomic_file.sweep(target)
        kept = change.old is not None and not change.secret
        backup = _keep_backup(change, now) if kept else None
        if change.new is None:
            atomic_file.remove(target)
        elif change.secret:
            group = find_networkd_group()
            atomic_file.write(target, change.new, change.mode, group=group, durable=True)
        else:
            atomic_file.write(target, change.new, change.mode, like=target, durable=True)
    except OSError as error:
        raise _explained(change.path, error) from error
    return backup


def _explained(path: Path, error: OSError) -> HafwError:
    cure = cure_of(error) or "correct that"
    return HafwError(f"cannot write {path}: {error.strerror}", f"{cure}, then run hafw setup again")


def _keep_backup(change: FileChange, now: datetime) -> Path:
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
    with atomic_file.written_beside(place, content, 0o600, like=target, durable=True) as fresh:
        try:
            os.link(fresh, place)  # unlike a rename, replaces nothing
        except FileExistsError:
            return False
    atomic_file.sync_directory(place.parent)
    return True
