# SPDX-License-Identifier: GPL-2.0-or-later
"""conntrackd's control socket with a fake behind it that speaks its protocol."""

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from agent.adapters.conntrackd import Statistics, parse_statistics
from agent.adapters.conntrackd_counters import MAX_ANSWER, ask_counters
from agent.errors import ToolError, UnavailableError
from tests.checkout import RECORDED

DIRECT = (RECORDED / "direct-statistics.txt").read_text()


async def ask(path: Path, *pieces: bytes) -> tuple[bytes, Statistics]:
    """What was asked, and what came of the answer, which comes in pieces."""
    asked: list[bytes] = []
    running = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.setblocking(False)

        async def serve() -> None:
            connection, _ = await running.sock_accept(server)
            with connection:
                asked.append(await running.sock_recv(connection, 100))
                for piece in pieces:
                    await running.sock_sendall(connection, piece)

        async with asyncio.timeout(10):
            # who has heard enough hangs up in the middle of an answer
            _, found = await asyncio.gather(serve(), ask_counters(path), return_exceptions=True)
    if isinstance(found, BaseException):
        raise found
    return asked[0], found


def test_it_asks_for_what_the_command_asks_for(tmp_path: Path) -> None:
    raw = DIRECT.encode()
    asked, found = asyncio.run(ask(tmp_path / "ctl", raw[:100], raw[100:]))
    assert asked == struct.pack("=i", 21)
    assert found == parse_statistics(DIRECT)


@pytest.mark.parametrize("answer", [b"", b"\xff" * 10, b"x" * (3 * MAX_ANSWER)])
def test_an_answer_that_is_none(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(ToolError, match="statistics are invalid"):
        asyncio.run(ask(tmp_path / "ctl", answer))


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        asyncio.run(ask_counters(tmp_path / "ctl"))
