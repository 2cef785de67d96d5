# SPDX-License-Identifier: GPL-2.0-or-later
"""The only place in the agent that starts another program.

Every call has a fixed environment, a time limit and a limit on what is read: a tool that prints without end,
or never ends, is cut off and reported.

Hard fact: a lock that another thread holds when this process is copied is never given back in the copy. In
Python 3.11 each functools.cached_property has one for all objects of its class, and ipaddress has some.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar, cast

from agent.errors import HafwError, MissingToolError, NoCopyError, SilentError, ToolError

Found = TypeVar("Found")

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LANG": "C"}
MAX_OUTPUT = 1 << 20
OWN_CODE = Path(__file__).resolve().parents[2]
"""Where `import agent` looks."""
_OF_OWN_CODE = {**ENVIRONMENT, "PYTHONPATH": str(OWN_CODE)}
COPY_LIMIT_S = 120
"""Ten times what the largest policy takes."""
TURN_LIMIT_S = 60
"""The longest callback of the event loop that a copy waits for: loading the largest policy takes seconds."""


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
    `timeout_s`, ToolError when it prints more than MAX_OUTPUT bytes. A non-zero exit status is the caller's
    to judge.
    """
    status, output = await _run(argv, timeout_s, _Output)
    return Finished(status, output.text(1), output.text(2))


async def run_own(
    module: str, given: bytes, *, timeout_s: float, max_output: int, libraries: bool = False
) -> bytes:
    """Run a module of ours as a process of its own, with ordinary priority, which gets `given` and answers
    with what this returns. `libraries`: it needs some that Python has not by itself. Cancelling kills it.
    Raises as run(), and ToolError when it fails."""
    argv = (sys.executable, *(() if libraries else ("-S",)), "-P", "-m", module)
    status, output = await _run(argv, timeout_s, lambda: _Output(max_output), given)
    if status != 0:
        raise ToolError(argv, f"{module} ended with {status}: {output.text(2)[-300:]}", retryable=True)
    return output.data(1)


async def _run(
    argv: tuple[str, ...], timeout_s: float, make: Callable[[], "_Output"], given: bytes | None = None
) -> tuple[int, "_Output"]:
    running = asyncio.get_running_loop()
    environment = ENVIRONMENT if given is None else _OF_OWN_CODE
    try:
        transport, output = await running.subprocess_exec(
            make,
            *argv,
            stdin=DEVNULL if given is None else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise MissingToolError(argv, f"cannot start {argv[0]}: {error.strerror}") from error
    try:
        if given is not None:
            _feed(transport, given)
        async with asyncio.timeout(timeout_s):
            whole = await output.ended
    except TimeoutError as error:
        message = f"{' '.join(argv)} did not answer within {round(timeout_s, 1):g} s"
        raise SilentError(argv, message, retryable=True) from error
    finally:
        await _end(transport, output)
    if not whole:
        raise ToolError(argv, f"{argv[0]} printed more than {output.limit >> 20} MiB and was stopped")
    status = transport.get_returncode()
    return 255 if status is None else status, output


def _feed(transport: asyncio.SubprocessTransport, given: bytes) -> None:
    pipe = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
    pipe.write(given)
    pipe.write_eof()


def start_detached(argv: tuple[str, ...], line: socket.socket | None = None) -> None:
    """Start `argv`, of our own code, in a session of its own, with nothing of ours open; it continues when
    we have ended. It reads from `line` and writes to it, where there is one.

    Raises ToolError when it cannot be started. What becomes of it is its own business.
    """
    _forget_ended()
    ends = DEVNULL if line is None else line.fileno()
    try:
        started = subprocess.Popen(
            argv,
            stdin=ends,
            stdout=ends,
            stderr=DEVNULL,
            env=_OF_OWN_CODE,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(argv, f"cannot start {argv[0]}: {error.strerror}") from error
    # it is not waited for: without this Python warns that it is still running
    started.returncode = 0
    _detached.add(started.pid)


_detached: set[int] = set()


def _forget_ended() -> None:
    """Of those that were started before: the kernel keeps what nobody has asked for."""
    for pid in tuple(_detached):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        _detached.discard(pid)


def in_child(job: Callable[[], Found], running: asyncio.AbstractEventLoop | None = None) -> Found:
    """What `job` returns, or the HafwError that it raises, found out by a copy of this process: the memory
    that it takes goes with that copy, and it does not hold up our interpreter. Of what it changes in this
    process nothing lasts.

    A thread beside the event loop `running` names it. Then the loop makes the copy between two of its
    callbacks, while this thread waits here: neither is in the middle of anything. A third thread may be, so
    none may hold a lock that `job` needs.

    Raises NoCopyError (retryable) when there can be no copy: no memory, too many processes or open files, or
    a loop that has ended, or is not done with one callback within TURN_LIMIT_S. Raises ToolError when it
    ends before that, or is ended because it takes longer than COPY_LIMIT_S.
    """
    pid, reader = _start_copy(job) if running is None else _start_between_callbacks(job, running)
    with open(reader, "rb") as answer:
        data = answer.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        code = os.waitstatus_to_exitcode(status)
        message = f"a process of the agent ended with {code} before it was finished"
        raise ToolError(("hafw",), message, retryable=True)
    found, error = pickle.loads(data)
    if error is None:
        return cast(Found, found)
    kind, arguments, attributes = error
    raised: HafwError = kind.__new__(kind, *arguments)
    raised.__dict__.update(attributes)
    raise raised


def _start_between_callbacks(
    job: Callable[[], object], running: asyncio.AbstractEventLoop
) -> tuple[int, int]:
    with contextlib.suppress(RuntimeError):  # there is none in this thread
        if asyncio.get_running_loop() is running:
            raise AssertionError("the event loop would wait for itself")
    started = concurrent.futures.Future[tuple[int, int]]()

    def start() -> None:
        if started.set_running_or_notify_cancel():
            try:
                started.set_result(_start_copy(job))
            except BaseException as error:  # noqa: BLE001 -- for the thread that waits, whatever it is
                started.set_exception(error)

    try:
        running.call_soon_threadsafe(start)
    except RuntimeError as closed:
        raise _no_turn() from closed
    try:
        # one wait: each time that this thread wants the interpreter, the loop has a pause, and a loop that
        # computes without end is not stopped (agent/adapters/scheduling.py)
        return started.result(TURN_LIMIT_S)
    except TimeoutError as late:
        if started.cancel():
            raise _no_turn() from late
        return started.result()  # it has begun just now


def _no_turn() -> NoCopyError:
    message = "cannot start a process of the agent: its event loop has ended, or hangs"
    return NoCopyError(("hafw",), message, retryable=True)


def _start_copy(job: Callable[[], object]) -> tuple[int, int]:
    """Its process id, and where its answer is read."""
    try:
        pid, reader, writer = _fork_with_pipe()
    except OSError as refused:
        message = f"cannot start a process of the agent: {refused.strerror}"
        raise NoCopyError(("hafw",), message, retryable=True) from refused
    if pid == 0:
        _be_child(job, writer)
    os.close(writer)
    return pid, reader


def _fork_with_pipe() -> tuple[int, int, int]:
    """The child, or 0 in the child itself, and both ends of a pipe."""
    reader, writer = os.pipe()
    try:
        with warnings.catch_warnings():
            # Python 3.12 and later: other threads may hold a lock. in_child() says which do not
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork(), reader, writer
    except OSError:
        os.close(reader)
        os.close(writer)
        raise


def _be_child(job: Callable[[], object], writer: int) -> NoReturn:
    try:
        gc.disable()  # it would copy every page
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})  # our parent may have blocked it
        signal.alarm(COPY_LIMIT_S)  # a process that waits for a copy that hangs would hang as well
        signal.set_wakeup_fd(-1)
        try:
            answer = pickle.dumps((job(), None))
        except HafwError as error:
            answer = pickle.dumps((None, (type(error), error.args, error.__dict__)))
        with open(writer, "wb") as out:
            out.write(answer)
    except BaseException:  # noqa: BLE001 -- nothing of the parent's may run on here, whatever happens
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class _Output(asyncio.SubprocessProtocol):
    """What a program prints. `ended`: True at the end of program and output, False when it is too much.

    asyncio's streams would not do: one that is full stops reading, and the end of its program is then never
    seen.
    """

    def __init__(self, limit: int = MAX_OUTPUT) -> None:
        running = asyncio.get_running_loop()
        self.limit = limit
        self.ended: asyncio.Future[bool] = running.create_future()
        self.exited: asyncio.Future[None] = running.create_future()
        self._printed = {1: bytearray(), 2: bytearray()}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        printed = self._printed[fd]
        if len(printed) + len(data) <= self.limit:
            printed += data
        elif not self.ended.done():
            self.ended.set_result(False)

    def process_exited(self) -> None:
        self.exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(True)

    def data(self, fd: int) -> bytes:
        return bytes(self._printed[fd])

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
