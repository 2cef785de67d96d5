# SPDX-License-Identifier: GPL-2.0-or-later
"""One at a time, between real processes: who waits sleeps in the kernel, and not longer than it was told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters.lock import BusyError, hold_lock
from tests.checkout import ROOT
from tests.netns.pair_checks import until

PATIENCE_S = 60.0
WAITS = """
import sys
from pathlib import Path
from agent.adapters.lock import hold_lock
input()
with hold_lock(Path(sys.argv[1]), 600.0):
    print("locked")
"""


def is_waiting(process: int) -> bool:
    """The kernel lists whoever is blocked by a lock."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any(line.split()[1] == "->" and line.split()[5] == str(process) for line in lines)


def test_who_waits_for_it_sleeps_until_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    argv = [sys.executable, "-P", "-c", WAITS, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdin is not None
        with hold_lock(path, 0.0):
            waiting.stdin.write("\n")
            waiting.stdin.flush()
            until(lambda: is_waiting(waiting.pid), PATIENCE_S, "it does not wait in the kernel")
        assert waiting.communicate(timeout=PATIENCE_S)[0] == "locked\n"
    assert waiting.returncode == 0


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
def test_it_is_not_waited_for_longer(tmp_path: Path, wait_s: float) -> None:
    usual = signal.getsignal(signal.SIGALRM)
    path = tmp_path / "lock"
    with (
        hold_lock(path, 0.0),
        pytest.raises(BusyError, match=f"process {os.getpid()}"),
        hold_lock(path, wait_s),
    ):
        pass
    assert signal.getsignal(signal.SIGALRM) is usual
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with hold_lock(path, wait_s):
        pass


def test_it_is_not_waited_for_longer_where_alarms_are_blocked(tmp_path: Path) -> None:
    """By the parent: a mask is inherited. In a process of its own, which can be ended."""
    path = tmp_path / "lock"
    program = """
import signal, sys
from pathlib import Path
from agent.adapters.lock import BusyError, hold_lock
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
try:
    with hold_lock(Path(sys.argv[1]), 0.05):
        pass
except BusyError:
    print(signal.SIGALRM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    with hold_lock(path, 0.0):
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("True\n", ""), "blocked again afterwards"
