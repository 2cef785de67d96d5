# SPDX-License-Identifier: GPL-2.0-or-later
"""keepalived's adapter where the bus should be, and something else is. With both libraries."""

import asyncio
import gc
import os
import shutil
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.netns.keepalived_bus import Bus, listening, run

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="no dbus-daemon on this machine"),
]


def test_no_bus_at_all(adapter: ModuleType, directory: Path) -> None:
    async def scenario() -> None:
        async with listening(adapter, directory / "nothing") as ear:
            await ear.after_tries(3)
            assert ear.changes == []
            await ear.watched.refresh()
            assert ear.states == frozenset()

    run(scenario())


async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def saying(
    *words: bytes,
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    """A server that answers the n-th thing it is told with the n-th words, and then hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for each in words:
            await reader.read(4096)
            writer.write(each)
        writer.close()

    return serve


BAD_BUSES = {
    "never answers": never,
    "hangs up at once": saying(),
    "hangs up in the middle of a line": saying(b"OK 12"),
    "refuses us": saying(b"REJECTED EXTERNAL\r\n"),
    "speaks something else": saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a line that never ends": saying(b"x" * 100_000),
    "no text": saying(b"\xff\xfe\r\n"),
    "garbage after the greeting": saying(b"OK 1234deadbeef\r\n", b"\xff" * 4096),
    "hangs up after the greeting": saying(b"OK 1234deadbeef\r\n"),
}


@pytest.mark.parametrize("name", BAD_BUSES)
def test_something_that_is_no_bus_is_tried_again_and_never_waited_for(
    adapter: ModuleType, bus: Bus, directory: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(adapter, "ANSWER_LIMIT_S", 0.1)
    place = directory / "other"
    calls = at_work = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls, at_work
        calls += 1
        at_work += 1
        try:
            await BAD_BUSES[name](reader, writer)
        except OSError:
            pass  # whoever it is has hung up
        finally:
            at_work -= 1
            writer.close()

    async def scenario() -> None:
        server = await asyncio.start_unix_server(count, place)
        async with listening(adapter, place) as ear:
            await ear.until(lambda: calls >= 3)
            gc.collect()
            before = len(os.listdir("/proc/self/fd"))
            await ear.until(lambda: calls >= 12)
            gc.collect()
            assert len(os.listdir("/proc/self/fd")) < before + 6, "every try leaves a descriptor open"
            assert not ear.watched.connected
            assert ear.changes == []
            server.close()
            place.unlink(missing_ok=True)  # from Python 3.13 on the server has done so
            place.symlink_to(bus.socket)
            monkeypatch.setattr(adapter, "ANSWER_LIMIT_S", 1.0)
            await ear.until(lambda: ear.watched.connected)
            await ear.until(lambda: at_work == 0)

    run(scenario())


def test_trying_again_leaves_no_descriptors(adapter: ModuleType, directory: Path) -> None:
    place = directory / "other"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()
    listener.close()  # refuses connections from now on

    async def scenario() -> None:
        async with listening(adapter, place) as ear:
            await ear.after_tries(3)
            before = len(os.listdir("/proc/self/fd"))
            await ear.after_tries(12)
            assert len(os.listdir("/proc/self/fd")) <= before

    gc.disable()  # what only the garbage collector closes may stay open for hours
    try:
        run(scenario())
    finally:
        gc.enable()


def test_a_bus_that_takes_no_connections_is_not_waited_for(adapter: ModuleType, directory: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "other"))
    listener.listen(0)
    waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
    for each in waiting:
        with suppress(BlockingIOError):
            each.connect(str(directory / "other"))

    async def scenario() -> None:
        async with listening(adapter, directory / "other") as ear:
            await ear.after_tries(3)
            assert not ear.watched.connected
        for each in (listener, *waiting):
            each.close()

    run(scenario())
