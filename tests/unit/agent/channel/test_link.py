# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections to the peer that end while they begin."""

import asyncio
import contextlib
import socket

import pytest

from agent.adapters.openssl import make_pair_key
from agent.channel.keys import PairKey, make_context, parse_key
from agent.channel.link import _secure


@pytest.fixture(scope="module")
def key() -> PairKey:
    return parse_key(make_pair_key())


async def shake_for(turns: int, key: PairKey) -> bool:
    """A handshake that is given up after so many turns of the loop, unless it is done by then: True."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    shaking = asyncio.create_task(_secure(near, make_context(key, server=False), server=False))
    answering = asyncio.create_task(_secure(far, make_context(key, server=True), server=True))
    for _ in range(turns):
        await asyncio.sleep(0)
    done = shaking.done()
    shaking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        (await shaking)[1].transport.abort()
    require_no_descriptor_is_watched()
    with contextlib.suppress(OSError):
        (await answering)[1].transport.abort()
    await asyncio.sleep(0.01)  # both transports close
    return done


def require_no_descriptor_is_watched() -> None:
    """A socket that is new has the lowest number that is free."""
    with contextlib.ExitStack() as stack:
        for line in socket.socketpair():
            stack.enter_context(line)
            asyncio.get_running_loop().add_reader(line, print)
            asyncio.get_running_loop().remove_reader(line)


def test_a_handshake_that_is_given_up_at_any_moment_leaves_nothing_that_is_watched(key: PairKey) -> None:
    async def give_up_later_and_later() -> int:
        turns = 1
        while not await shake_for(turns, key):
            turns += 1
        return turns

    assert asyncio.run(give_up_later_and_later()) > 2
