# SPDX-License-Identifier: GPL-2.0-or-later
"""Talk to a qemu: one JSON object a line, commands with answers, events in between."""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hafw_lab.errors import LabError

Fields = dict[str, Any]  # decoded JSON; the reader of a field narrows it

_LARGEST = 1 << 22
_ANSWER_TIMEOUT_S = 60.0
_JOB_TIMEOUT_S = 300.0
_ASK_AGAIN_S = 0.1


class Qmp:
    """One connection. `on_event(name, data)` is called for every event, `on_end()` once."""

    def __init__(
        self,
        name: str,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        on_event: Callable[[str, Fields], None],
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._reader, self._writer = streams
        self._on_event, self._on_end = on_event, on_end
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._ended = False
        self._task = asyncio.get_running_loop().create_task(self._read())

    @staticmethod
    async def connect(
        name: str, path: Path, on_event: Callable[[str, Fields], None], on_end: Callable[[], None]
    ) -> "Qmp":
        """To the socket of the machine `name`, which must be there. Raises LabError, OSError."""
        reader, writer = await asyncio.open_unix_connection(path, limit=_LARGEST)
        greeting = await reader.readline()
        if b'"QMP"' not in greeting:
            writer.close()
            raise LabError(f"{name}: its qemu sends no greeting on {path}")
        qmp = Qmp(name, (reader, writer), on_event, on_end)
        await qmp.execute("qmp_capabilities")
        return qmp

    async def execute(self, command: str, **arguments: object) -> object:
        """What the command returns. Raises LabError when it fails or qemu is gone."""
        return await self._execute(command, arguments, None)

    async def give_file(self, name: str, file: int) -> None:
        """The descriptor `file`, for a command that names it. Raises LabError."""
        await self._execute("getfd", {"fdname": name}, file)

    async def _execute(self, command: str, arguments: dict[str, object], file: int | None) -> object:
        if self._ended:
            raise self._gone(command)
        number = next(self._numbers)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        request: Fields = {"execute": command, "id": number}
        if arguments:
            request["arguments"] = arguments
        try:
            self._send(json.dumps(request).encode() + b"\n", file)
            await self._writer.drain()
            return await asyncio.wait_for(answer, _ANSWER_TIMEOUT_S)
        except TimeoutError as error:
            text = f"{self._name}: its qemu did not answer {command!r} within {_ANSWER_TIMEOUT_S:g} s"
            raise LabError(text) from error
        except ConnectionError as error:
            raise self._gone(command) from error
        finally:
            self._waiting.pop(number, None)

    def _send(self, line: bytes, file: int | None) -> None:
        if file is None:
            self._writer.write(line)
            return
        if self._writer.transport.get_write_buffer_size():
            raise LabError(f"{self._name}: its qemu accepts no more commands")
        descriptor = os.dup(self._writer.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as channel:
            socket.send_fds(channel, [line], [file])

    async def query(self, command: str) -> Fields:
        """The same for commands that return an object."""
        answer = await self.execute(command)
        if not isinstance(answer, dict):
            raise LabError(f"{self._name}: its qemu answers {command!r} with {answer!r}")
        return answer

    async def run_job(self, command: str, **arguments: object) -> None:
        """A command that runs in the background, until it has ended. Raises LabError when it fails."""
        job = f"{command}-{next(self._numbers)}"
        await self.execute(command, **{"job-id": job}, **arguments)
        until = time.monotonic() + _JOB_TIMEOUT_S
        while time.monotonic() < until:
            answer = await self.execute("query-jobs")
            found = [one for one in answer if one["id"] == job] if isinstance(answer, list) else []
            if found and found[0]["status"] == "concluded":
                await self.execute("job-dismiss", id=job)
                if "error" in found[0]:
                    raise LabError(f"{self._name}: {command}: {found[0]['error']}")
                return
            # there are events for it too, and asking needs no more than this
            await asyncio.sleep(_ASK_AGAIN_S)
        raise LabError(f"{self._name}: {command} did not end within {_JOB_TIMEOUT_S:g} s")

    async def close(self) -> None:
        self._writer.close()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _gone(self, command: str) -> LabError:
        return LabError(f"{self._name}: its qemu ended before it had answered {command!r}")

    async def _read(self) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while line := await self._reader.readline():
                    self._take(json.loads(line))
        finally:
            self._ended = True
            self._writer.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(self._gone("a command"))
            self._on_end()

    def _take(self, message: Fields) -> None:
        if "event" in message:
            self._on_event(message["event"], message.get("data", {}))
            return
        answer = self._waiting.get(message.get("id", 0))
        if answer is None or answer.done():
            return
        if "error" in message:
            answer.set_exception(LabError(f"{self._name}: qemu says: {message['error'].get('desc')}"))
        else:
            answer.set_result(message.get("return"))
