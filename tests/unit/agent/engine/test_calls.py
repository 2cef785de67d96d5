# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions between two agents, without the channel between them."""

import asyncio
from collections.abc import Callable

import pytest

from agent.channel.messages import PeerMessage, decode, encode
from agent.core.calls import PART_BYTES, Ask, Reply
from agent.engine.calls import SILENCE_S, PeerCalls
from agent.errors import HafwError, UnavailableError

PATHS = 3


async def echo(question: bytes) -> bytes:
    return b"you said: " + question[-20:]


class Pair:
    """What one says by every path, the other hears."""

    def __init__(self, carry_out: Callable[..., object] = echo, silence_s: float = SILENCE_S) -> None:
        self.unheard: str | None = None
        self.said: list[PeerMessage | None] = []
        self.one = PeerCalls(self._to_two, lambda: self.unheard, echo, silence_s)
        self.two = PeerCalls(self._to_one, lambda: None, carry_out)  # type: ignore[arg-type]

    def _to_two(self, _topic: str, message: PeerMessage | None) -> None:
        self.said.append(message)
        self._hand_over(message, self.two)

    def _to_one(self, _topic: str, message: PeerMessage | None) -> None:
        self._hand_over(message, self.one)

    def _hand_over(self, message: PeerMessage | None, to: PeerCalls) -> None:
        if message is None or self.unheard is not None:
            return
        for _ in range(PATHS):
            heard = decode(encode(message))
            assert isinstance(heard, Ask | Reply)
            asyncio.get_running_loop().call_soon(to.take, heard)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, 5 * PART_BYTES + 1])
def test_a_question_is_answered(size: int) -> None:
    async def scenario() -> None:
        pair = Pair()
        question = bytes(size)
        assert await pair.one.ask(question) == await echo(question)
        assert pair.said[-1] is None  # a connection that is made again does not ask again
        assert await pair.one.ask(b"another") == b"you said: another"

    asyncio.run(scenario())


def test_it_is_carried_out_once() -> None:
    asked: list[bytes] = []

    async def note(question: bytes) -> bytes:
        asked.append(question)
        await asyncio.sleep(0.05)
        return b"done"

    async def scenario() -> None:
        await Pair(note).one.ask(b"please")

    asyncio.run(scenario())
    assert asked == [b"please"]


def test_a_peer_that_falls_silent_in_the_middle() -> None:
    async def scenario() -> None:
        pair = Pair(lambda _: asyncio.sleep(30), silence_s=0.1)
        asking = asyncio.create_task(pair.one.ask(b"please"))
        await asyncio.sleep(0.05)
        pair.unheard = "the agent of fw-2 is not heard"
        with pytest.raises(UnavailableError, match="fw-2 is not heard"):
            await asking
        pair.two.close()

    asyncio.run(scenario())


def test_a_moment_of_silence_in_the_middle_is_none() -> None:
    """A small machine that is at work on it speaks late; one that is silent before is not asked."""

    async def scenario() -> None:
        begun = asyncio.Event()

        async def be_silent(_: bytes) -> bytes:
            pair.unheard = "the agent of fw-2 is not heard"
            begun.set()
            await asyncio.sleep(0.5)
            pair.unheard = None
            return b"done"

        pair = Pair(be_silent)
        asking = asyncio.create_task(pair.one.ask(b"please"))
        await begun.wait()
        for _ in range(10):
            pair.one.take(Reply("of another one", 1))  # it looks again at each
            await asyncio.sleep(0.01)
        assert await asking == b"done"
        silent = Pair()
        silent.unheard = "the agent of fw-2 is not heard"
        with pytest.raises(UnavailableError, match="fw-2 is not heard"):
            async with asyncio.timeout(SILENCE_S / 3):
                await silent.one.ask(b"please")

    asyncio.run(scenario())


def test_a_moment_of_silence_between_two_questions_is_none() -> None:
    """A change is several questions, and what the first one has done may keep the peer from speaking when
    the second one is asked. Who has answered long ago, and is silent, is not asked."""

    async def scenario() -> None:
        pair = Pair(silence_s=0.5)
        await pair.one.ask(b"load")
        pair.unheard = "the agent of fw-2 is not heard"
        asking = asyncio.create_task(pair.one.ask(b"confirm"))
        await asyncio.sleep(0.1)
        assert not asking.done()
        pair.unheard = None
        assert await asking == b"you said: confirm"
        pair.unheard = "the agent of fw-2 is not heard"
        await asyncio.sleep(0.6)
        with pytest.raises(UnavailableError, match="fw-2 is not heard"):
            async with asyncio.timeout(0.3):
                await pair.one.ask(b"again")

    asyncio.run(scenario())


def test_who_answers_is_heard() -> None:
    """Also in a moment in which nothing else of it is."""

    async def scenario() -> None:
        pair = Pair(lambda _: asyncio.sleep(30), silence_s=0.5)
        asking = asyncio.create_task(pair.one.ask(b"please"))
        await asyncio.sleep(0.05)
        ask = pair.said[0]
        assert isinstance(ask, Ask)
        pair.unheard = "the agent of fw-2 is not heard"
        for _ in range(8):
            pair.one.take(Reply(ask.call, 1))
            await asyncio.sleep(0.1)
        pair.one.take(Reply(ask.call, 1, b"done"))
        assert await asking == b"done"
        pair.two.close()

    asyncio.run(scenario())


def test_a_second_asker_learns_that_the_first_is_served() -> None:
    async def scenario() -> None:
        pair = Pair(lambda _: asyncio.sleep(30))
        first = asyncio.create_task(pair.one.ask(b"please"))
        await asyncio.sleep(0.05)
        pair.two.take(Ask("of another run of the agent", 0, 1, b"please"))
        await asyncio.sleep(0.05)
        assert not first.done()
        first.cancel()
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="at work on another request"):
            await pair.one.ask(b"again")
        pair.two.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [0, 5 * PART_BYTES])
def test_an_agent_that_starts_again_in_the_middle_says_so_and_does_nothing_twice(size: int) -> None:
    carried_out: list[bytes] = []

    async def wait(question: bytes) -> bytes:
        carried_out.append(question)
        await asyncio.sleep(30)
        return b""

    async def scenario() -> None:
        pair = Pair(wait)
        asking = asyncio.create_task(pair.one.ask(bytes(size)))
        while not carried_out:
            await asyncio.sleep(0.05)
        pair.two.close()
        pair.two = PeerCalls(pair._to_one, lambda: None, wait)
        with pytest.raises(UnavailableError, match="has started again in the middle"):
            async with asyncio.timeout(10):
                await asking
        pair.two.close()

    asyncio.run(scenario())
    assert len(carried_out) == 1


def test_one_that_starts_again_between_two_parts_says_so() -> None:
    async def scenario() -> None:
        pair = Pair()
        asking = asyncio.create_task(pair.one.ask(bytes(100 * PART_BYTES)))
        await asyncio.sleep(0.2)
        pair.two = PeerCalls(pair._to_one, lambda: None, echo)
        with pytest.raises(UnavailableError, match="has started again in the middle"):
            await asking

    asyncio.run(scenario())


def test_a_question_of_any_length_is_none() -> None:
    with pytest.raises(HafwError, match="too many"):
        asyncio.run(ask_alone(bytes(300 * PART_BYTES)))


async def ask_alone(question: bytes) -> bytes:
    return await Pair().one.ask(question)
