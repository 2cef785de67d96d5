"""The only place in the agent that starts another program.

Every call has a fixed environment, a time limit and a limit on what is read: a tool that prints without end,
or never ends, is cut off and reported.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass

from agent.errors import MissingToolError, SilentError, ToolError

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LANG": "C"}
MOST_OUTPUT = 1 << 20


@dataclass(frozen=True, slots=True)
class Finished:
    exit_status: int
    stdout: str
    stderr: str


def use_pidfd_children() -> None:
    """Python 3.11 watches each child with a thread of its own; a pidfd costs nothing. 3.12 does so by
    itself."""
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


async def run(argv: tuple[str, ...], *, timeout_s: float) -> Finished:
    """Run `argv` and return what it printed. Cancelling kills the program and whatever it has started.

    Raises MissingToolError when it cannot be started, SilentError (retryable) when it takes longer than
    `timeout_s`, ToolError when it prints more than MOST_OUTPUT bytes. A non-zero exit status is the caller's
    to judge.
    """
    running = asyncio.get_running_loop()
    try:
        transport, output = await running.subprocess_exec(
            _Output,
            *argv,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise MissingToolError(argv, f"cannot start {argv[0]}: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_s):
            whole = await output.ended
    except TimeoutError as error:
        message = f"{' '.join(argv)} gave no answer within {round(timeout_s, 1):g} s"
        raise SilentError(argv, message, retryable=True) from error
    finally:
        await _end(transport, output)
    if not whole:
        raise ToolError(argv, f"{argv[0]} printed more than {MOST_OUTPUT >> 20} MiB and was stopped")
    status = transport.get_returncode()
    return Finished(255 if status is None else status, output.text(1), output.text(2))


def start_detached(argv: tuple[str, ...], environment: dict[str, str]) -> None:
    """Start `argv` in a session of its own, with nothing of ours open; it goes on when we have ended.

    Raises ToolError when it cannot be started. What becomes of it is its own business.
    """
    try:
        started = subprocess.Popen(
            argv,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env={**ENVIRONMENT, **environment},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(argv, f"cannot start {argv[0]}: {error.strerror}") from error
    # nobody waits for it: without this Python warns that it is still running
    started.returncode = 0


class _Output(asyncio.SubprocessProtocol):
    """What a program prints. `ended`: True at the end of program and output, False when it is too much.

    asyncio's streams would not do: one that is full stops reading, and the end of its program is then never
    seen.
    """

    def __init__(self) -> None:
        running = asyncio.get_running_loop()
        self.ended: asyncio.Future[bool] = running.create_future()
        self.exited: asyncio.Future[None] = running.create_future()
        self._printed = {1: bytearray(), 2: bytearray()}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        printed = self._printed[fd]
        if len(printed) + len(data) <= MOST_OUTPUT:
            printed += data
        elif not self.ended.done():
            self.ended.set_result(False)

    def process_exited(self) -> None:
        self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(True)

    def text(self, fd: int) -> str:
        return self._printed[fd].decode(errors="replace")


async def _end(transport: asyncio.SubprocessTransport, output: _Output) -> None:
    """Kills the whole session unless all of it has ended by itself: no child is left, and no pipe."""
    if not (output.ended.done() and not output.ended.cancelled() and output.ended.result()):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
    try:
        await asyncio.shield(output.exited)
    finally:
        transport.close()
