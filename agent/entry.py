# SPDX-License-Identifier: GPL-2.0-or-later
"""How a command starts and ends: an interrupt and a missing library get no traceback.

Hard facts
* Python raises KeyboardInterrupt wherever it is, also in callbacks of its own import machinery, which print
  a traceback and continue. Nothing is to be cleaned up while modules are loaded, so that the process ends at
  once then.
"""

import os
import signal
from collections.abc import Callable, Sequence

INTERRUPTED = 128 + signal.SIGINT
Main = Callable[[Sequence[str]], int]


def run(program: str, load: Callable[[], Main], argv: Sequence[str]) -> int:
    """What the function that `load` imports returns: the exit status."""
    usual = signal.getsignal(signal.SIGINT)
    try:
        if usual is signal.default_int_handler:  # else our parent wants it ignored
            signal.signal(signal.SIGINT, _end)
        main = load()
        signal.signal(signal.SIGINT, usual)
        return main(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        from agent.installation import say_missing

        return say_missing(program, error)


def _end(_number: int, _frame: object) -> None:
    os._exit(INTERRUPTED)
