# SPDX-License-Identifier: GPL-2.0-or-later
"""What rolls back without a confirmation, even if the terminal, the agent and this process are gone.

Hard facts
* Where systemd is, a transient timer (systemd-run --on-active) belongs to systemd alone. Its unit has one
  fixed name, so there is one at a time. AccuracySec is a minute unless said otherwise.
* A transient unit that failed keeps its name until `reset-failed`; --collect makes systemd forget it.
* Elsewhere a process of its own session, without a terminal, waits. It does not survive the machine: after a
  boot the agent rolls back at its start.
* Both know the apply they were made for by its identity; one that comes too late finds another, or none.
"""

import asyncio
import sys

from agent.adapters import process
from agent.adapters.service import is_systemd_here
from agent.errors import HafwError, ToolError

UNIT = "hafw-rollback"
_CALL_S = 20.0


def start(identity: str, after_s: int) -> None:
    """In `after_s` seconds: `hafw rules rollback --unconfirmed IDENTITY`. Raises HafwError if there can be
    no such thing."""
    if is_systemd_here():
        _stop_units()
        _call(
            "systemd-run",
            f"--unit={UNIT}",
            f"--on-active={after_s}",
            "--timer-property=AccuracySec=100ms",
            "--collect",
            "--quiet",
            f"--setenv=PYTHONPATH={process.OWN_CODE}",
            f"--description=Roll the rules of hafw back unless confirmed ({identity})",
            *_command(identity),
            "--after",
            "0.1",
        )
    else:
        process.start_detached((*_command(identity), "--after", str(after_s)))


def stop() -> None:
    """The timer of systemd is not needed any more. (The process finds out by itself.)"""
    if is_systemd_here():
        _stop_units()


def _command(identity: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "agent", "rules", "rollback", "--unconfirmed", identity)


def _stop_units() -> None:
    """Not the service: it may be this very process."""
    _call("systemctl", "stop", "--quiet", f"{UNIT}.timer", expected=(0, 5))


def _call(*argv: str, expected: tuple[int, ...] = (0,)) -> None:
    process.use_pidfd_children()
    done = asyncio.run(process.run(argv, timeout_s=_CALL_S))
    if done.exit_status not in expected:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise HafwError(f"{argv[0]} cannot set the timer of the rollback: {reason}") from ToolError(
            argv, reason, exit_status=done.exit_status, stderr=done.stderr
        )
