# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a long program, and ends it with all that it has begun when the process that waits for it is gone, in
any way: a program that is killed itself cannot clear anything away.

    python3 -m hafw_lab.kernel.keeper LOCK SCRATCH [LEFT...] -- COMMAND [ARGUMENT...]

The other end of the standard input is held by the process that waits. When it is closed before COMMAND has
ended, COMMAND is broken off, and SCRATCH and every LEFT are removed. LOCK is the descriptor with which
SCRATCH is locked (lab_directory.py). Exits as COMMAND does. Standard library only.

Hard facts
* mmdebstrap unmounts and removes what it has made when it is told to end, but not when it is killed; so it
  is told first.
* Programs that leave their process group are still this process's descendants, since it takes in orphans.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from hafw_lab.kernel.namespaces import adopt_orphans
from hafw_lab.lab_directory import LabDirectory, remove_tree

_GENTLE_S, _HARD_S = 10.0, 10.0
_LEASH = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")


class _BrokenOffError(Exception):
    pass


def _break_off(_number: int, _frame: FrameType | None) -> None:
    raise _BrokenOffError


def keep(argv: list[str], scratch: LabDirectory, left: list[Path]) -> int:
    """Its exit status, as a shell gives it."""
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _break_off)
    child: subprocess.Popen[bytes] | None = None
    try:
        # a group of its own, so that this process is not told when the group is
        child = subprocess.Popen([*_LEASH, *argv], stdin=subprocess.DEVNULL, process_group=0)
        if _wait(child, None):
            return child.returncode if child.returncode >= 0 else 128 - child.returncode
    except _BrokenOffError:
        pass
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if child is not None:
        _end(child)
    _end_orphans()
    for path in left:
        remove_tree(path)
    scratch.remove()
    return 128 + signal.SIGTERM


def _wait(child: "subprocess.Popen[bytes]", timeout_s: float | None) -> bool:
    """Until it has ended: True. False when the process that waits is gone before, or, with a timeout, after
    that."""
    ended = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    if timeout_s is None:
        poll.register(0, select.POLLHUP)
    found = dict(poll.poll(None if timeout_s is None else timeout_s * 1000))
    os.close(ended)
    if 0 in found or ended not in found:
        return False
    child.wait()
    return True


def _end(child: "subprocess.Popen[bytes]") -> None:
    for number, patience_s in ((signal.SIGTERM, _GENTLE_S), (signal.SIGKILL, _HARD_S)):
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            _wait(child, patience_s)


def _end_orphans() -> None:
    until = time.monotonic() + _HARD_S
    while time.monotonic() < until:
        for pid in _find_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _find_children() -> Iterator[int]:
    pid = os.getpid()
    yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def main() -> None:
    lock, scratch, *rest = sys.argv[1:]
    end = rest.index("--")
    os.set_inheritable(int(lock), False)
    sys.exit(
        keep(rest[end + 1 :], LabDirectory(Path(scratch), int(lock)), [Path(one) for one in rest[:end]])
    )


if __name__ == "__main__":
    main()
