# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions of this node to its peer, and the peer's to this one: one of each kind at a time.

What is asked is bytes here; agent/rollout/request.py knows what they mean. The loop waits for nothing of it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from functools import partial

from agent.channel.messages import PeerMessage
from agent.core.calls import MAX_PARTS, PART_BYTES, Ask, Collector, Reply, split
from agent.errors import HafwError, UnavailableError

SILENCE_S = 15.0
"""So long may the peer not be heard in the middle of a question, or after the one before: what it does for
one may take all its processor time for a moment. A change that is half done is worth the wait."""
PART_LIMIT_S = SILENCE_S
ANSWER_LIMIT_S = 120.0
"""Loading the largest policy takes ten seconds."""
AGAIN_S = 1.0
PAUSE_S = 0.05
"""Between two parts: the peer takes no more messages in a second than it has to."""
ASK, REPLY = "ask", "reply"

Carry = Callable[[bytes], Awaitable[bytes]]


class PeerCalls:
    def __init__(
        self,
        say: Callable[[str, PeerMessage | None], None],
        why_unheard: Callable[[], str | None],
        carry_out: Carry,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`say`: a topic and what is to be said about it from now on. `why_unheard`: None while the peer is.
        `carry_out`: the answer to a question of the peer."""
        self._say, self._why_unheard, self._carry_out = say, why_unheard, carry_out
        self._silence_s, self._heard_s = silence_s, float("-inf")
        self._asking = asyncio.Lock()
        self._call = ""
        self._replied = asyncio.Event()
        self._reply: Reply | None = None
        self._incoming = Collector()
        self._working: asyncio.Task[None] | None = None
        self._answered: bytes | None = None
        """The answer to the question that has come in."""

    async def ask(self, question: bytes) -> bytes:
        """The answer. Raises UnavailableError when none comes in time, HafwError when it cannot be asked."""
        if len(question) > MAX_PARTS * PART_BYTES:
            raise HafwError(f"{len(question)} bytes are too many for a question to the other node")
        async with self._asking:
            self._call = uuid.uuid4().hex
            try:
                return await self._ask(split(self._call, question))
            finally:
                self._call = ""
                self._say(ASK, None)

    async def _ask(self, parts: tuple[Ask, ...]) -> bytes:
        *pieces, end = parts
        for part in pieces:
            await self._until(part, partial(_has_taken, part.part + 1), PART_LIMIT_S)
            await asyncio.sleep(PAUSE_S)
        reply = await self._until(end, lambda reply: reply.data is not None, ANSWER_LIMIT_S)
        assert reply.data is not None
        return reply.data

    async def _until(self, part: Ask, is_enough: Callable[[Reply], bool], limit_s: float) -> Reply:
        """`part` is said again now and then: what is said once may be lost."""
        running = asyncio.get_running_loop()
        end_s, say_s = running.time() + limit_s, 0.0
        while True:
            self._replied.clear()
            if running.time() >= say_s:
                self._say(ASK, part)
                say_s = running.time() + AGAIN_S
            reply = self._reply
            if reply is not None and reply.call == self._call:
                if reply.busy:
                    raise UnavailableError("the other node is at work on another request", "try again")
                if is_enough(reply):
                    return reply
                if not reply.taken:
                    raise UnavailableError(
                        "the other node's agent has started again in the middle of the request",
                        "what became of it there is not known: see its journal, and `hafw status`",
                    )
            unheard = self._why_unheard()
            if unheard is None:
                self._heard_s = running.time()
            elif running.time() - self._heard_s > self._silence_s:
                raise UnavailableError(unheard)
            if running.time() > end_s:
                raise UnavailableError(f"the other node has not answered within {limit_s:.0f} s")
            try:
                async with asyncio.timeout(AGAIN_S):
                    await self._replied.wait()
            except TimeoutError:
                continue

    def take(self, message: Ask | Reply) -> None:
        """What has come from the peer."""
        if isinstance(message, Reply):
            if message.call == self._call:
                self._heard_s = asyncio.get_running_loop().time()
            self._reply = message
            self._replied.set()
            return
        if self._working is not None and not self._working.done() and message.call != self._incoming.call:
            self._say(REPLY, Reply(message.call, 0, busy=True))
            return
        question = self._incoming.take(message)
        if question is not None:
            self._answered = None
            running = asyncio.get_running_loop()
            self._working = running.create_task(self._answer(message.call, question))
            self._working.add_done_callback(_raise_bug)
        if message.call == self._incoming.call:
            self._say(REPLY, Reply(message.call, self._incoming.taken, self._answered))
        elif message.part and not self._incoming.knows(message.call):
            self._say(REPLY, Reply(message.call, 0))

    async def _answer(self, call: str, question: bytes) -> None:
        taken = self._incoming.taken
        self._answered = await self._carry_out(question)
        self._say(REPLY, Reply(call, taken, self._answered))

    def close(self) -> None:
        """What was begun for the peer is done by a process of its own, which ends by itself."""
        if self._working is not None:
            self._working.cancel()


def _has_taken(parts: int, reply: Reply) -> bool:
    return reply.taken >= parts


def _raise_bug(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a question of the other node", "exception": task.exception(), "task": task}
        )
