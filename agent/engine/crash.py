# SPDX-License-Identifier: GPL-2.0-or-later
"""A bug ends the process, also one in a callback of the event loop, where asyncio would only log it.

The service manager then starts another one, which begins with a look at what is true. An agent that
continues without one of its ears would be worse: it looks alive.
"""

import asyncio
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.errors import HafwError
from agent.streams import harmless

MAX_WORDS = 1000
OUR_FILES = f"{Path(__file__).parents[1]}/"
FOREIGN_FILES = ("/dbus_next/", "/dbus_fast/")
"""dbus-next leaves futures of calls unread, and raises in its own callbacks, when the bus hangs up; the
adapter sees the same end of the bus by itself."""


@contextmanager
def ending(working: "asyncio.Task[Any]", say: Callable[[str], None]) -> Iterator[None]:
    """Inside, an unhandled exception is described to `say`, cancels `working`, and is raised at the end of
    the block."""
    found: list[BaseException] = []

    def handle(running: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exception = context.get("exception")
        if found or not isinstance(exception, BaseException) or is_foreign(exception):
            running.default_exception_handler(context)
            return
        found.append(exception)
        working.cancel()
        say(in_one_line(exception))

    running = asyncio.get_running_loop()
    running.set_exception_handler(handle)
    try:
        yield
    except asyncio.CancelledError:
        if not found:
            raise
    finally:
        running.set_exception_handler(None)
    if found:
        raise found[0]


def in_one_line(exception: BaseException) -> str:
    """What it is and where it was raised. One that is a sentence for the administrator is just that."""
    while isinstance(exception, BaseExceptionGroup):
        exception = exception.exceptions[0]
    words = harmless(" ".join(str(exception).split()))[:MAX_WORDS]
    if isinstance(exception, HafwError):
        return words
    frames = traceback.extract_tb(exception.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(exception).__name__}{': ' if words else ''}{words}{place}"


def is_foreign(exception: BaseException) -> bool:
    """Whether it came from inside the bus library, and nothing of ours had a part in it. One without a
    traceback was never raised: a result that a library has put into a future that is never read."""
    files = [frame.filename for frame in traceback.extract_tb(exception.__traceback__)]
    ours = any(name.startswith(OUR_FILES) for name in files)
    theirs = any(part in name for name in files for part in FOREIGN_FILES)
    return not files or (theirs and not ours)
