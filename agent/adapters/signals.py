# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that would end a command while something is half done.

Hard facts
* A terminal that is closed, as by an SSH connection that breaks, sends SIGHUP.
* A handler, unlike SIG_IGN and a mask, is not inherited by the programs that are started meanwhile.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def finish_command() -> None:
    """What this process has begun it does to its end, and tells: from here on it is not to be interrupted,
    except in interruptible(). Only for a command that ends by itself soon, in its main thread."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """For what may take long in a command that finishes: in here such a signal raises KeyboardInterrupt."""
    held_off = [number for number in _ENDING if signal.getsignal(number) is _do_nothing]
    for number in held_off:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in held_off:
            signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """The answer says what has become of the command."""
