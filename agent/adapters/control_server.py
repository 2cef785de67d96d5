# SPDX-License-Identifier: GPL-2.0-or-later
"""How the agent answers the requests of control.py, however many come, from any client.

Hard fact: asyncio keeps the error of a stream in a future of its own as well. Where the garbage collector
comes to that one before the stream, it reports an error that nobody has handled: so a client that was gone
could end the agent. A socket without a stream raises its errors where it is used, and nowhere else.
"""

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from agent.adapters import unix_socket
from agent.adapters.control import FORCED_HANDOVER, HANDOVER, PROGRESS, SIGN_OF_LIFE, STATUS
from agent.adapters.pace import Pace, PacedReader
from agent.errors import HafwError
from agent.file_cures import cure_of

Answer = Callable[[], Awaitable[dict[str, Any]]]
AnswerWord = Callable[[str], Awaitable[dict[str, Any]]]
Say = Callable[[str], Awaitable[object]]
"""What the administrator reads meanwhile."""
Handing = Callable[[Say, bool], Awaitable[dict[str, Any]]]
"""Answers a handover, and tells how far it is; the flag: whether it is forced."""

NO_WORDS: Mapping[bytes, AnswerWord] = {}
MAX_REQUEST = 256
_WORD = re.compile(rb"([0-9a-z-]{1,64})\n")
MAX_OPEN = 128
MAX_WAITING = 100
AT_ONCE = 8
PACE = Pace(at_once=100, per_second=400)
READING_LIMIT_S = 5.0
REQUEST_LIMIT_S = 2.0


class Server:
    """However many ask at a time, one status is being made and one may wait; the oldest of too many
    connections is closed, unless it has asked for a reload or a handover."""

    def __init__(
        self,
        listener: socket.socket,
        answers: Mapping[bytes, Answer],
        with_word: Mapping[bytes, AnswerWord],
        hand_over: Handing | None = None,
    ) -> None:
        self._listener = listener
        self._answers, self._with_word = answers, with_word
        self._hand_over = hand_over
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
            except OSError:  # no further client, or gone again, or no descriptors left just now
                return max(count, 1)
            line.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._serve(line))
            self._open[task] = None
            task.add_done_callback(partial(self._served, line))
            if len(self._open) > MAX_OPEN:
                oldest = next(iter(self._open))
                del self._open[oldest]  # else the next one that comes would cancel it once more
                oldest.cancel()
        return AT_ONCE

    def _served(self, line: socket.socket, task: "asyncio.Task[None]") -> None:
        line.close()
        self._open.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request at the control socket", "exception": task.exception(), "task": task}
            )

    async def _serve(self, line: socket.socket) -> None:
        question = await _read_request(line)
        if question is None or (question == STATUS and not await _send(line, SIGN_OF_LIFE)):
            return
        if self._hand_over is not None and question in (HANDOVER, FORCED_HANDOVER):
            self._keep()
            found = await self._hand_over(partial(_tell, line), question == FORCED_HANDOVER)
        else:
            found = await self._answer(question)
        await _send(line, json.dumps(found).encode() + b"\n")

    def _keep(self) -> None:
        """Of the running task: what it has begun ends with an answer, however many others come."""
        task = asyncio.current_task()
        if task is not None:
            self._open.pop(task, None)

    async def _answer(self, question: bytes) -> dict[str, Any]:
        """Raises what the answer raises: that is a fault of ours, and never taken for one of the client."""
        asked = self._answers.get(question) or self._find_with_word(question)
        if asked is None:
            return {"error": f"unknown request; send one of: {_names((*self._answers, *self._with_word))}"}
        if question != STATUS:
            self._keep()
            return await asked()
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._make(asked))
        return await asyncio.shield(self._next)

    def _find_with_word(self, question: bytes) -> Answer | None:
        """`question`: a verb, and one word for it."""
        verb, _, word = question.partition(b" ")
        answer = self._with_word.get(verb + b" ")
        found = _WORD.fullmatch(word)
        return partial(answer, found[1].decode()) if answer is not None and found is not None else None

    async def _make(self, asked: Answer) -> dict[str, Any]:
        async with self._making:
            self._next = None  # a request from now on is about what is true later
            return await asked()


async def serve(
    path: Path,
    answers: Mapping[bytes, Answer],
    with_word: Mapping[bytes, AnswerWord] = NO_WORDS,
    hand_over: Handing | None = None,
) -> Server:
    """Start to answer these requests. A socket left by an earlier run is replaced, anything else at `path`
    is not touched. Raises HafwError if there can be none."""
    try:
        listener = unix_socket.bind(path, socket.SOCK_STREAM)
        listener.listen(MAX_WAITING)
    except OSError as error:
        message = f"cannot listen for `hafw status` at {path}: {error.strerror or error}"
        raise HafwError(message, cure_of(error) or "run it once on each node") from error
    return Server(listener, answers, with_word, hand_over)


async def _read_request(line: socket.socket) -> bytes | None:
    """None when the client is gone, sends too much, or nothing in time."""
    found = b""
    try:
        async with asyncio.timeout(REQUEST_LIMIT_S):
            while b"\n" not in found:
                more = await asyncio.get_running_loop().sock_recv(line, MAX_REQUEST)
                found += more
                if len(found) > MAX_REQUEST:
                    return None
                if not more:
                    break  # what has come without an end is no known request
    except (TimeoutError, OSError):
        return None
    request, end, _ = found.partition(b"\n")
    return request + end


async def _send(line: socket.socket, data: bytes) -> bool:
    """False when the client is gone, or does not read."""
    try:
        async with asyncio.timeout(READING_LIMIT_S):
            await asyncio.get_running_loop().sock_sendall(line, data)
    except (TimeoutError, OSError):
        return False
    return True


async def _tell(line: socket.socket, text: str) -> None:
    """A client that is gone changes nothing."""
    await _send(line, json.dumps({PROGRESS: text}).encode() + b"\n")


def _names(requests: Iterable[bytes]) -> str:
    return " or ".join(name.decode().strip() for name in requests)
