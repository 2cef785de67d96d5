# SPDX-License-Identifier: GPL-2.0-or-later
"""Sends the elements of this node's dynamic sets to its peer, and takes those of the peer, as core/sets.py
decides. No role, gate or takeover waits for any of it.

Hard fact: between the look at the sets and the answer of the peer everything may change. What this node
sends in that time is older than what an administrator says meanwhile, which must not be undone by it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from agent.core.peer import NodeStatus
from agent.core.roles import Role
from agent.core.sets import FAILURES, PERIOD_S, About, Sending, about, is_sender
from agent.errors import HafwError

LOOK_S = 1.0
TAKEN_PAUSE_S = 2.0
"""The least from one taking to the next: a peer that sends without end makes no more work than that."""
MARK = b"sets\n"
"""What a question of the other node begins with that is not for `hafw rules serve`."""
TAKEN = b"taken"
AGAIN = b"again"
"""Something differs, and is changed when it also does so in the next sending."""
MAX_ANSWER = 1000
_MAX_REASON = 120


class Work(Protocol):
    async def list(self, names: tuple[str, ...]) -> bytes: ...
    async def put(self, names: tuple[str, ...], packed: bytes, differing: bytes) -> tuple[int, bytes]: ...
    async def replace(self, names: tuple[str, ...], packed: bytes, *, beside: bool) -> int: ...


class SetsWatch:
    def __init__(
        self,
        names: tuple[str, str],
        own: Callable[[], NodeStatus],
        peer: Callable[[], NodeStatus | None],
        ask: Callable[[bytes], Awaitable[bytes]],
        work: Work,
        record: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`names`: of this node and its peer. `peer`: its newest word, None while it is silent. `record`: of
        what was changed here."""
        self._node, self._peer_name = names
        self._own, self._peer, self._ask, self._work, self._record = own, peer, ask, work, record
        self._clock = clock
        self.sets: Callable[[], tuple[str, ...]] = tuple
        """The names of the dynamic sets."""
        self.losses: Callable[[], int] = lambda: 0
        """How often this node has lost its elements."""
        self.are_right: Callable[[int], None] = lambda losses: None
        """Called when both nodes have the same, with the losses() from before that was looked at."""
        self.differ = ""
        """Why they may not have; both nodes say so."""
        self._sent = Sending()
        self._taken_s = float("-inf")
        self._differing = b""
        """What differed in the last sending of the peer, and was not changed yet."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.turn()

    async def turn(self) -> None:
        sets, peer, own = self.sets(), self._peer(), self._own()
        if not sets:
            self.are_right(self.losses())
        if not sets or peer is None or not is_sender(own, peer):
            self._sent, self.differ = replace(self._sent, about=None, failed=0), ""
            return
        what = about(own, peer)
        if what != self._sent.about:
            self._sent, self.differ = replace(self._sent, failed=0), ""
        if self._sent.is_next_due(what, self._clock(), lost=peer.sets_lost):
            await self._send(sets, what)

    async def _send(self, sets: tuple[str, ...], what: About) -> None:
        begun_s, losses = self._clock(), self.losses()
        failed, answer = self._sent.failed, b""
        try:
            packed = await self._work.list(sets)
            if self.losses() != losses:
                return  # what was listed is what is left after a loss
            answer = await self._ask(MARK + packed)
            if answer not in (TAKEN, AGAIN):
                raise HafwError(f"{self._peer_name} says: {_in_words(answer)}")
        except HafwError as error:
            failed += 1
            if failed >= FAILURES:
                self.differ = f"{self._peer_name} may have other elements in its dynamic sets: {error}"
        else:
            failed, self.differ = 0, ""
            if answer == TAKEN:
                self.are_right(losses)
        ended_s = self._clock()
        self._sent = Sending(what, ended_s, ended_s - begun_s, failed, answer == AGAIN)

    async def take(self, packed: bytes) -> bytes:
        """What the other node has sent; the answer to it. Never raises HafwError."""
        pause_s = self._taken_s + TAKEN_PAUSE_S - self._clock()
        await asyncio.sleep(max(0.0, pause_s))
        own, losses = self._own(), self.losses()
        beside = own.role is Role.PRIMARY
        if beside and not own.sets_lost:
            return f"{self._node} is primary, and what it has is right".encode()
        known = self._differing if self._clock() - self._taken_s < PERIOD_S else b""
        self._differing = b""
        try:
            if own.sets_lost:
                changed = await self._work.replace(self.sets(), packed, beside=beside)
            else:
                changed, self._differing = await self._work.put(self.sets(), packed, known)
        except HafwError as error:
            return str(error).encode()[:MAX_ANSWER]
        finally:
            self._taken_s = self._clock()
        if changed:
            many = "1 element was" if changed == 1 else f"{changed} elements were"
            self._record(f"{many} changed in the dynamic sets, to be as on {self._peer_name}")
        if self._differing:
            return AGAIN
        self.are_right(losses)
        return TAKEN


def _in_words(answer: bytes) -> str:
    text = answer.decode("ascii", "replace")[:_MAX_REASON]
    return text if text.isprintable() and text else "nothing that is understood here"
