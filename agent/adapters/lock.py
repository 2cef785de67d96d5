# SPDX-License-Identifier: GPL-2.0-or-later
"""One at a time: a file that is locked while its holder lives, whatever becomes of it."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from agent.errors import HafwError, UnavailableError
from agent.file_cures import cure_of
from agent.paths import Paths


class BusyError(UnavailableError):
    """Another process of ours is at work on this node."""


@contextlib.contextmanager
def hold_lock(path: Path, wait_s: float) -> Iterator[None]:
    """At most one process carries out plans. Raises BusyError if another one does for longer."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HafwError(f"cannot open {path}: {error.strerror}", cure_of(error)) from error
    try:
        _lock(descriptor, path, time.monotonic() + wait_s)
        with contextlib.suppress(OSError):  # only says who: on a full disk it is locked all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = _holder(descriptor)
                raise BusyError(
                    f"another hafw (process {holder}) is running on this node", "only one can run at a time"
                ) from None
        time.sleep(0.05)


def _holder(descriptor: int) -> str:
    try:
        number = os.pread(descriptor, 20, 0).decode("ascii").strip()
    except (OSError, ValueError):
        return "unknown"
    return number if number.isdigit() else "unknown"


def make_run_dir(paths: Paths) -> None:
    try:
        paths.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise HafwError(f"cannot make {paths.run_dir}: {error.strerror}", cure_of(error)) from error
