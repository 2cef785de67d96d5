"""The questions that a command asks the resident agent: one line in, one JSON object out.

`status` changes nothing. `reload` is a SIGHUP with an answer: the agent takes the pair file that is on the
disk. Nothing else comes over this socket. Mode 0600, so root alone may ask.
"""

import asyncio
import json
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.adapters import unix_socket
from agent.errors import HafwError, UnavailableError
from agent.pace import Pace, PacedReader

Answer = Callable[[], Awaitable[dict[str, Any]]]

STATUS, RELOAD = b"status\n", b"reload\n"
MOST_QUESTION = 256
MOST_OPEN = 128
MOST_WAITING = 100
AT_ONCE = 8
PACE = Pace(at_once=100, per_second=400)
READING_LIMIT_S = 5.0
QUESTION_LIMIT_S = 2.0
SIGN_OF_LIFE = b" "
"""Comes at once, and means nothing in JSON: who asks knows that the agent is at work on the answer."""
SIGN_LIMIT_S = 1.5
ANSWER_LIMIT_S = 10.0
RELOAD_LIMIT_S = 30.0


class Server:
    """However many ask at a time, one status is being made and one may wait; the oldest of too many
    connections is closed, unless it has asked for a reload."""

    def __init__(self, listener: socket.socket, answers: Mapping[bytes, Answer]) -> None:
        self._listener = listener
        self._answers = answers
        self._making = asyncio.Lock()
        self._next: asyncio.Task[dict[str, Any]] | None = None
        self._open: dict[asyncio.Task[None], None] = {}
        self._reader = PacedReader(listener.fileno(), self._accept, PACE)

    def close(self) -> None:
        self._reader.close()
        self._listener.close()
        for task in self._open:
            task.cancel()

    def _accept(self) -> int:
        for count in range(AT_ONCE):
            try:
                line, _ = self._listener.accept()
            except OSError:  # nobody more, or gone again, or no descriptors left just now
                return max(count, 1)
            line.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._serve(line))
            self._open[task] = None
            task.add_done_callback(self._served)
            if len(self._open) > MOST_OPEN:
                next(iter(self._open)).cancel()
        return AT_ONCE

    def _served(self, task: "asyncio.Task[None]") -> None:
        self._open.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a question at the control socket", "exception": task.exception(), "task": task}
            )

    async def _serve(self, line: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=line, limit=MOST_QUESTION)
        is_closed = False
        try:
            async with asyncio.timeout(QUESTION_LIMIT_S):
                question = await reader.readline()
            if question == STATUS:
                writer.write(SIGN_OF_LIFE)
            found = await self._answer(question)
            writer.write(json.dumps(found).encode() + b"\n")
            async with asyncio.timeout(READING_LIMIT_S):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            is_closed = True
        except (TimeoutError, OSError, ValueError):
            pass  # whoever asked has gone, or asked without end, or does not read; nothing is owed
        finally:
            if (
                not is_closed
            ):  # asyncio has nothing left to abort in one that closed when its buffer was empty
                writer.transport.abort()

    async def _answer(self, question: bytes) -> dict[str, Any]:
        asked = self._answers.get(question)
        if asked is None:
            return {"error": f"this is no question; ask: {_names(self._answers)}"}
        if question != STATUS:
            task = asyncio.current_task()
            if task is not None:
                self._open.pop(task, None)
            return await asked()
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._make(asked))
        return await asyncio.shield(self._next)

    async def _make(self, asked: Answer) -> dict[str, Any]:
        async with self._making:
            self._next = None  # who asks from now on wants to know what is true later
            return await asked()


async def serve(path: Path, answer: Answer, reload: Answer | None = None) -> Server:
    """Start to answer `status`, and `reload` where it is given. A socket left by an earlier run is replaced,
    anything else at `path` is not touched. Raises HafwError if there can be none."""
    unix_socket.clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(MOST_WAITING)
    except OSError as error:
        listener.close()
        message = f"cannot listen for `hafw status` at {path}: {error.strerror or error}"
        raise HafwError(message, "run as root, once on each node") from error
    finally:
        os.umask(mask)
    return Server(listener, {STATUS: answer, **({RELOAD: reload} if reload else {})})


def _names(answers: Mapping[bytes, Answer]) -> str:
    return " or ".join(name.decode().strip() for name in answers)


def ask_status(path: Path) -> dict[str, Any]:
    """Raises UnavailableError if no agent answers, HafwError if the answer is not one."""
    return _ask(path, STATUS, ANSWER_LIMIT_S, sign_limit_s=SIGN_LIMIT_S)


def ask_reload(path: Path) -> dict[str, Any]:
    """The answer comes when the rules are in force, or says in `error` why they are not. Raises as
    ask_status()."""
    return _ask(path, RELOAD, RELOAD_LIMIT_S)


def _connect(line: socket.socket, path: Path, limit_s: float) -> None:
    """Waits in the kernel's queue where others are before us; with a time limit of Python's it would refuse
    at once."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(limit_s), 0))
    line.connect(str(path))
    line.settimeout(limit_s)


def _await_sign(line: socket.socket, path: Path, limit_s: float) -> None:
    """Raises UnavailableError when an agent is there and shows no sign of life."""
    if not select.select([line], [], [], limit_s)[0]:
        raise UnavailableError(
            f"the agent at {path} does not answer: it is stopped by a signal, or hangs; rules and states "
            "stay as they are, and nobody follows keepalived",
            "see `systemctl status hafw-agent`, then: systemctl restart hafw-agent",
        )


def _ask(path: Path, question: bytes, limit_s: float, sign_limit_s: float | None = None) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            _connect(line, path, limit_s)
            line.sendall(question)
            if sign_limit_s is not None:
                _await_sign(line, path, sign_limit_s)
            with line.makefile("rb") as reply:
                text = reply.readline(1 << 20)
        except OSError as error:
            raise UnavailableError(
                f"no agent answers at {path} ({error.strerror or 'no answer in time'})",
                "run as root"
                if isinstance(error, PermissionError)
                else "start it: systemctl start hafw-agent",
            ) from error
    if not text:
        raise UnavailableError(
            "the agent has ended before it answered", "start it: systemctl start hafw-agent"
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HafwError("the agent's answer cannot be understood") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise HafwError("the agent's answer cannot be understood")
    return found
