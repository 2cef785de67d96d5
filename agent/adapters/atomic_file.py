# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are written whole: a reader meanwhile, or after a power cut, finds the old or the new one.

Each is written beside its place and renamed. What a kill has left beside it has a name that no daemon reads
(a dot in front, an end of ours) and that sweep() knows.
"""

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path

_END = ".hafw-new"


def write(
    path: Path,
    content: str | bytes,
    mode: int = 0o600,
    *,
    like: Path | None = None,
    group: int | None = None,
    durable: bool = False,
) -> None:
    """`content` at `path`, in the place of what was there. The file has owner and mode of `like` where that
    is there, else `mode`, and `group` where this process may give it; on the disk, with its name, when this
    returns, if it is to be `durable`. Raises OSError."""
    with written_beside(path, content, mode, like=like, group=group, durable=durable) as fresh:
        os.replace(fresh, path)
    if durable:
        sync_directory(path.parent)


@contextlib.contextmanager
def written_beside(
    path: Path,
    content: str | bytes,
    mode: int,
    *,
    like: Path | None,
    group: int | None = None,
    durable: bool,
) -> Iterator[Path]:
    """A whole file in the directory of `path`, for a rename or a link; what is left of it is removed."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}{_END}")
    fresh.unlink(missing_ok=True)  # whatever it is: a pipe of that name would wait
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if group is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, -1, group)
            _take_after(like, descriptor, mode)
            if durable:
                os.fsync(descriptor)
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def _take_after(like: Path | None, descriptor: int, mode: int) -> None:
    there = None
    if like is not None:
        with contextlib.suppress(FileNotFoundError):
            there = like.stat()
    own = os.fstat(descriptor)
    if there is not None and (there.st_uid, there.st_gid) != (own.st_uid, own.st_gid):
        os.fchown(descriptor, there.st_uid, there.st_gid)
    os.fchmod(descriptor, mode if there is None else there.st_mode & 0o7777)


def make_directory(directory: Path, mode: int = 0o755) -> None:
    """With those above it, on the disk. Raises OSError."""
    if not directory.is_dir():
        make_directory(directory.parent, mode)
        directory.mkdir(mode=mode, exist_ok=True)
        sync_directory(directory.parent)


def remove(path: Path) -> None:
    """Gone from the disk as well; it need not be there. Raises OSError."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sweep(path: Path) -> None:
    """What a writer that was killed has left beside `path`. Only for a directory that no
    other process writes to."""
    for left in path.parent.glob(f".{glob.escape(path.name)}*{_END}"):
        left.unlink()


def sync_directory(directory: Path) -> None:
    """Names and their ends last. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
