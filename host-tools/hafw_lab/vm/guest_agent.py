# SPDX-License-Identifier: GPL-2.0-or-later
"""Talk to the guest agent in a machine (qemu-ga): one JSON object a line over a serial port.

Hard facts
* The port has no connections: what a caller before left unread, or an answer that came too late for it, is
  what the next one reads first. guest-sync-delimited is answered with its own number after a byte 0xFF,
  which is in no JSON text; what comes before that byte is of no interest. A 0xFF sent ahead makes the agent
  forget half a line.
* The port may have no listener at all: the agent starts late and stops early, and the port takes what is
  written.
* guest-shutdown is answered by the end of qemu, or by an error.
* guest-set-time also wants to write the hardware clock with hwclock(8), which Debian 13 does not install:
  the system's clock is set then, and the answer is an error. So the clock is read back instead.
* The other end is a guest, which may say anything.
"""

import asyncio
import itertools
import json
import time
from pathlib import Path

from hafw_lab.errors import LabError

_SENTINEL = b"\xff"
_LARGEST = 1 << 16
_ANSWER_TIMEOUT_S = 60.0
"""A guest without KVM that is busy with other things takes its time."""
_SHUTDOWN_TIMEOUT_S = 300.0
"""systemd alone gives each service a minute and a half."""
_CLOSE_S = 30.0
"""So near the clock of this machine is one that was just set, as late as the answer may come."""
_MAX_WORDS = 200


class GuestAgent:
    """Of the machine `name`, whose qemu listens on `path` for one caller at a time."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path
        self._numbers = itertools.count(time.time_ns())

    async def set_clock(self, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
        """The guest's clock is this machine's now. Raises LabError."""
        why = "it is further off than the answer took"
        try:
            await self._ask("guest-set-time", {"time": time.time_ns()}, timeout_s)
        except _RefusedError as error:
            why = error.message
        told = await self._ask("guest-get-time", {}, timeout_s)
        if not isinstance(told, int) or abs(told - time.time_ns()) > _CLOSE_S * 1e9:
            raise LabError(f"{self._name}: its clock could not be set: {why}")

    async def shut_down(self, *, timeout_s: float = _SHUTDOWN_TIMEOUT_S) -> None:
        """Until the guest has powered itself off, in an orderly way. Raises LabError."""
        try:
            await self._ask("guest-shutdown", {"mode": "powerdown"}, timeout_s)
        except _GoneError:
            return
        raise LabError(f"{self._name}: its guest agent answered, but the machine is still on")

    async def _ask(self, command: str, arguments: dict[str, object], timeout_s: float) -> object:
        """What the command returns. Raises LabError."""
        request: dict[str, object] = {"execute": command, "arguments": arguments}
        try:
            async with asyncio.timeout(timeout_s):
                return await self._converse(request)
        except TimeoutError as error:
            text = f"{self._name}: its guest agent did not answer {command!r} within {timeout_s:g} s"
            raise LabError(text, "hafw-lab status says how the machine is") from error
        except (ConnectionResetError, asyncio.IncompleteReadError) as error:
            raise _GoneError(f"{self._name}: its qemu ended before it had answered {command!r}") from error
        except OSError as error:
            raise LabError(f"{self._name}: its guest agent cannot be reached: {error}") from error
        except (asyncio.LimitOverrunError, ValueError, LookupError, RecursionError) as error:
            raise LabError(f"{self._name}: its guest agent sent an invalid answer to {command!r}") from error

    async def _converse(self, request: dict[str, object]) -> object:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_LARGEST)
        try:
            await self._synchronize(reader, writer)
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            return self._take(await reader.readuntil(b"\n"))
        finally:
            writer.close()

    async def _synchronize(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From here on, what comes is the answer to what is said."""
        number = next(self._numbers)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        writer.write(_SENTINEL + json.dumps(request).encode() + b"\n")
        await writer.drain()
        while True:
            await _skip_until(reader, _SENTINEL)
            if json.loads(await reader.readuntil(b"\n")) == {"return": number}:
                return

    def _take(self, line: bytes) -> object:
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError(answer)
        error = answer.get("error")
        if isinstance(error, dict):
            said = "".join(letter for letter in str(error.get("desc")) if letter.isprintable())
            raise _RefusedError(f"{self._name}: its guest agent says: {said[:_MAX_WORDS]}")
        return answer["return"]


class _RefusedError(LabError):
    """The agent has understood, and does not do it."""


class _GoneError(LabError):
    """The machine has ended meanwhile."""


async def _skip_until(reader: asyncio.StreamReader, end: bytes) -> None:
    while True:
        try:
            await reader.readuntil(end)
            return
        except asyncio.LimitOverrunError as error:
            await reader.readexactly(error.consumed)
