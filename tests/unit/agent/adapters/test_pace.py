# SPDX-License-Identifier: GPL-2.0-or-later
"""A source that is faster than it may be."""

import asyncio
import socket
import time

from agent.adapters.pace import Pace, PacedReader

FLOOD_S = 0.5


def test_no_more_is_taken_than_the_pace_and_nothing_is_forgotten() -> None:
    async def scenario() -> None:
        out, into = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        out.setblocking(False)
        waits = 0
        taken: list[bytes] = []

        def take() -> int:
            taken.append(into.recv(10))
            return 1

        def wait() -> None:
            nonlocal waits
            waits += 1

        pace = Pace(at_once=10, per_second=100)
        begun = time.monotonic()
        reader = PacedReader(into.fileno(), take, pace, wait)
        while time.monotonic() < begun + FLOOD_S:
            try:
                out.send(b"x")
            except BlockingIOError:
                await asyncio.sleep(0)
        took_s = time.monotonic() - begun
        assert pace.at_once <= len(taken) <= pace.at_once + took_s * pace.per_second + 1
        assert waits >= 1
        out.setblocking(True)
        await asyncio.to_thread(out.send, b"last")
        async with asyncio.timeout(20):
            while taken[-1] != b"last":
                await asyncio.sleep(0.01)
        reader.close()
        out.close()
        into.close()

    asyncio.run(scenario())


def test_what_is_taken_at_once_is_paid_for_afterwards() -> None:
    async def scenario() -> None:
        out, into = socket.socketpair()
        times: list[float] = []

        def take() -> int:
            times.append(time.monotonic())
            return 30

        reader = PacedReader(into.fileno(), take, Pace(at_once=1, per_second=100))
        out.send(b"x")
        async with asyncio.timeout(20):
            while len(times) < 3:
                await asyncio.sleep(0.01)
        assert times[2] - times[1] >= 0.29
        reader.close()
        out.close()
        into.close()

    asyncio.run(scenario())
