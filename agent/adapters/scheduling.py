# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's place among the daemons that want the processor at a takeover.

Hard facts: conntrackd runs with SCHED_RR whatever its configuration says (priority 1 in ours), so on a
machine with one processor a bulk of 300,000 states would keep an ordinary process from opening the gate for
seconds. keepalived (50 in ours) must come before both. A real-time process that never blocks stops the
machine. The kernel counts that time for each thread: at the soft limit it sends SIGXCPU and raises it by a
second; at the hard one it kills without a word, and the service manager starts another agent.
"""

import asyncio
import contextlib
import faulthandler
import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from types import FrameType
from typing import TypeVar

PRIORITY = 10
PATIENCE_S = 4
"""After this the thread is an ordinary one until it gets to its next piece of work."""
LONGEST_S = 10

Found = TypeVar("Found")


def take_precedence() -> bool:
    """False where that is not allowed (no CAP_SYS_NICE, a user namespace); all works then, less promptly."""
    limits = (PATIENCE_S * 1_000_000, LONGEST_S * 1_000_000)
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, limits)
        # children (conntrackd's client, the hook's) are ordinary processes again
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except (OSError, ValueError):
        return False
    return True


async def beside(threads: Executor, job: Callable[[], Found]) -> Found:
    """What `job` returns, whose thread is as urgent as the loop, which does not wait for it."""

    def urgently() -> Found:
        take_precedence()  # an overrun in the job before may have lost it
        return job()

    return await asyncio.get_running_loop().run_in_executor(threads, urgently)


def watch_overruns(on_overrun: Callable[[str], None]) -> None:
    """Where a thread computes for PATIENCE_S without a pause, it steps back behind all others, and
    `on_overrun` is told the place by the event loop, as soon as that runs. The stacks of all threads go to
    stderr at once: inside of a library nothing of ours may get its turn before the hard limit."""
    running = asyncio.get_running_loop()

    def step_back(_number: int, frame: FrameType | None) -> None:
        for thread in threading.enumerate():
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.sched_setscheduler(
                    thread.native_id or 0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0)
                )
        place = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})" if frame else "?"
        running.call_soon_threadsafe(caught_up, place)

    def caught_up(place: str) -> None:
        take_precedence()
        on_overrun(place)

    signal.signal(signal.SIGXCPU, step_back)
    faulthandler.register(signal.SIGXCPU, chain=True)
