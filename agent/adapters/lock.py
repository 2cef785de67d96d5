# SPDX-License-Identifier: GPL-2.0-or-later
"""One at a time: a file that is locked while its holder lives, whatever becomes of it."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from agent.errors import HafwError, UnavailableError
from agent.file_cures import cure_of
from agent.paths import Paths

_AGAIN_S = 0.1


class BusyError(UnavailableError):
    """Another process of hafw is at work on this node."""


@contextlib.contextmanager
def hold_lock(path: Path, wait_s: float) -> Iterator[None]:
    """At most one process carries out plans. Raises BusyError if another one does for longer."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HafwError(f"cannot open {path}: {error.strerror}", cure_of(error)) from error
    try:
        _lock(descriptor, wait_s)
        with contextlib.suppress(OSError):  # only says who: on a full disk it is locked all the same
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait_s: float) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            with _time_limit(wait_s):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except TimeoutError:
            holder = _holder(descriptor)
            raise BusyError(
                f"another hafw (process {holder}) is running on this node", "only one can run at a time"
            ) from None


@contextlib.contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """TimeoutError then, from a call of the kernel's as well. Only in the main thread."""
    if limit_s <= 0:
        raise TimeoutError
    usual = signal.signal(signal.SIGALRM, _give_up)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # our parent may have blocked it, and a mask is inherited
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        # more than once: the first may come just before the call of the kernel begins
        signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGALRM, usual)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise TimeoutError


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
