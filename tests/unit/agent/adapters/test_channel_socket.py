# SPDX-License-Identifier: GPL-2.0-or-later
"""The agent's end of the socket of `hafw channel`: it waits for nothing."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.channel_socket import ChannelSocket
from agent.channel.local import MAX_DATAGRAM

LIMIT_S = 60.0


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as found:
        found.bind(str(tmp_path / "channel.sock"))
        found.listen()
        yield found


async def within_limit(listener: socket.socket, *, closes: bool) -> tuple[list[bytes], int]:
    """What a connection took and how often it ended, where the other end reads nothing."""
    taken: list[bytes] = []
    over = asyncio.Event()
    ended = 0

    def end() -> None:
        nonlocal ended
        ended += 1
        over.set()

    line = ChannelSocket(Path(listener.getsockname()), taken.append, end)
    other, _ = listener.accept()
    with other:
        if not closes:  # what is unread at an end with more to read is lost with it
            other.send(b"one")
        for _ in range(500):
            line.send(bytes(10_000))  # far more than the kernel keeps
        if closes:
            other.close()
            await over.wait()
        else:
            while not taken:
                await asyncio.sleep(0)
    line.send(b"to nobody")
    line.close()
    line.close()
    return taken, ended


@pytest.mark.parametrize("closes", [False, True])
def test_one_that_reads_nothing_costs_nothing(listener: socket.socket, *, closes: bool) -> None:
    taken, ended = asyncio.run(asyncio.wait_for(within_limit(listener, closes=closes), LIMIT_S))
    assert taken == ([] if closes else [b"one"])
    assert ended == closes


def test_nobody_listens(listener: socket.socket) -> None:
    path = Path(listener.getsockname())
    listener.close()

    async def connect() -> None:
        with pytest.raises(OSError, match="refused"):
            ChannelSocket(path, lambda _: None, lambda: None)

    asyncio.run(connect())


def test_the_longest_word_fits(listener: socket.socket) -> None:
    async def hear() -> list[bytes]:
        taken: list[bytes] = []
        line = ChannelSocket(Path(listener.getsockname()), taken.append, lambda: None)
        other, _ = listener.accept()
        with other:
            other.send(bytes(MAX_DATAGRAM))
            while not taken:
                await asyncio.sleep(0)
        line.close()
        return taken

    assert asyncio.run(asyncio.wait_for(hear(), LIMIT_S)) == [bytes(MAX_DATAGRAM)]
