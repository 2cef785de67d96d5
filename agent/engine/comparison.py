# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the states of a backup with its primary's, over the channel: both sides of it.

On a backup it is a step of a plan, which another plan ends at once. On a primary it answers, one question
after the other, and ends with the role. Whatever computes does so in a process of its own.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from agent.adapters.conntrackd import Statistics, kernel_states
from agent.core.actions import Compared
from agent.core.census import HASH_BYTES, Census, Difference
from agent.core.comparison import (
    ALONE_S,
    FASTEST,
    MAX_LISTS,
    MAX_ROUNDS,
    MUCH,
    AskStates,
    Collected,
    StatesMessage,
    StatesPart,
    StatesRefused,
    StatesTouched,
    is_believed,
    parts_of,
    refused_for,
    slower,
)
from agent.core.peer import NodeStatus
from agent.core.replication import Losses, losses_text
from agent.core.roles import Role
from agent.core.state import State, comparison_text
from agent.errors import HafwError, UnavailableError

WAIT_PRIMARY_S = 3.0
"""For a peer that has only just become primary, or is not heard yet."""
ANSWER_LIMIT_S = 30.0
"""For a list; and for a report of states beyond the time that its pace takes."""
QUESTION_PAUSE_S = 0.1
"""Between two answers to the peer: each costs seconds of a processor."""
POLL_S = 0.1
PART_PAUSE_S = 0.01
QUIET_S = 0.2
QUIET_TIMES = 2
TRICKLE = 1000
"""So many states in QUIET_S are those of new connections; a report brings ten times as many."""
TRICKLE_SHARE = 200
"""Of a large table."""
SETTLE_LIMIT_S = 20.0


class States(Protocol):
    """agent/adapters/state_process.py."""

    async def list(self) -> Census: ...
    async def touch(self, hashes: bytes, per_second: float) -> int: ...
    async def compare(self, primary: bytes, own: Census | None = None) -> Difference: ...
    async def compare_all(self, primary: bytes, alone: bytes) -> Difference: ...


@dataclass(frozen=True, slots=True)
class ComparedWith:
    """What a comparison needs of this node and its peer. `told`: the peer's newest word, None while it is
    silent. `speak`: False when there is no room for it now."""

    peer: str
    told: Callable[[], NodeStatus | None]
    speak: Callable[[StatesMessage], bool]
    statistics: Callable[[], Awaitable[Statistics]]
    can: Callable[[], str]
    """Why states cannot be compared here; empty when they can."""
    made_good: Callable[[Losses], None]
    """Called with all that conntrackd had lost when nothing was missing any more."""


class Comparison:
    def __init__(self, states: States, node: ComparedWith) -> None:
        self._states, self._node = states, node
        self._numbers = itertools.count(time.time_ns() // 1_000_000)
        self._asked: tuple[int, asyncio.Future[StatesMessage | Census]] | None = None
        self._collected = Collected(0)
        self._protocols: Mapping[str, int] = {}
        self._serves, self._role = False, Role.UNKNOWN
        self._question: tuple[int, Callable[[], Awaitable[None]]] | None = None
        self._questioned = asyncio.Event()
        self._answering: asyncio.Task[None] | None = None
        self._at_work: object | None = None
        """Which comparison of this backup asks just now."""
        self._alone, self._alone_s = b"", 0.0
        """What only this backup had in a comparison, and when that was."""
        self.last: tuple[float, Compared] | None = None
        """When the last comparison of this stay in the role ended, by time.monotonic()."""

    @property
    def running(self) -> bool:
        """A comparison of this backup is at work: what conntrackd loses meanwhile may be found by it."""
        return self._at_work is not None

    @property
    def protocols(self) -> Mapping[str, int]:
        """The replicated states of this node, as the last comparison counted them."""
        return self._protocols

    async def run(self) -> None:
        """Answers the peer, until cancelled: one question after the other."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._questioned.wait()
                self._questioned.clear()
                if self._question is not None:
                    self._answering = group.create_task(self._carry_out(*self._question))
                    await asyncio.wait((self._answering,))
                    self._answering = None
                    await asyncio.sleep(QUESTION_PAUSE_S)

    def state_changed(self, state: State) -> None:
        self._serves = state.role is Role.PRIMARY and state.phase.is_open
        if not self._serves:
            self._stop_answering()
        if state.role is not self._role:
            self._role = state.role
            self.last, self._protocols, self._alone = None, {}, b""

    # -- a backup's side --

    async def compare(self, *, routine: bool) -> Compared:
        """What is missing is here when it returns, as far as that was possible. `routine`: of a backup that
        has the states. Raises HafwError."""
        reason = await self._wait_primary(0.0 if routine else WAIT_PRIMARY_S)
        found = Compared(reason=reason)
        if not reason:
            own = self._at_work = object()
            try:
                found = await self._compare(routine=routine)
            finally:
                if self._at_work is own:  # and not one that has begun since this one was cancelled
                    self._at_work = self._asked = None
        self.last = time.monotonic(), found
        return found

    def describe(self) -> str:
        """What the last comparison of this stay in the role has found; empty when there was none."""
        if self.running:
            return "the states are being compared with the primary's"
        if self.last is None:
            return ""
        ended_s, found = self.last
        return f"{comparison_text(found)}, {time.monotonic() - ended_s:.0f} s ago"

    async def _wait_primary(self, limit_s: float) -> str:
        """Why nobody can be asked, or nothing."""
        until_s = time.monotonic() + limit_s
        while reason := self._node.can() or self._why_not():
            if self._node.can() or time.monotonic() >= until_s:
                return reason
            await asyncio.sleep(POLL_S)
        return ""

    def _why_not(self) -> str:
        told, peer = self._node.told(), self._node.peer
        if told is None:
            return f"the agent of {peer} is not heard"
        if not told.compares:
            return f"the agent of {peer} cannot compare states"
        return "" if told.role is Role.PRIMARY and told.gate_open else f"{peer} is not the primary"

    async def _compare(self, *, routine: bool) -> Compared:
        states, node = self._states, self._node
        touched = rounds = primary = left = ended = 0
        pace, losses = FASTEST, Losses()
        for turn in range(MAX_LISTS):
            catches_up = not turn and not routine
            if catches_up:
                await self._settle()  # a conntrackd that starts has asked its peer for everything
            before = (await node.statistics()).losses
            listed, own = await self._list_both() if catches_up else (await self._ask_list(), None)
            found = await states.compare(listed.hashes, own) if own is not None else None
            if found is not None and len(found.missing) > MUCH * HASH_BYTES:
                touched += await self._ask_missing(found.missing, pace)
                await self._settle()
                before = (await node.statistics()).losses  # what that lost, the next list has
                listed, found = await self._ask_list(), None
            if found is None:
                found = await self._compare_all(listed)
            primary = listed.total
            for last in (*[False] * MAX_ROUNDS, True):
                rounds, self._protocols, wanted = rounds + 1, found.protocols, found.missing + found.ended
                ended += len(found.ended) // HASH_BYTES
                left = len(found.missing) // HASH_BYTES
                if last or not wanted:
                    break
                left = await self._ask_missing(wanted, pace)
                if not left:
                    break
                touched += left
                await self._settle()
                found = await states.compare(wanted)
            now = (await node.statistics()).losses
            losses = now.since(before)
            if not losses:
                break
            pace = slower(pace)
        text = losses_text(losses) if losses else ""
        compared = Compared(primary, rounds, touched, left, text, ended=ended)
        if compared.whole:
            node.made_good(now)
        return compared

    async def _compare_all(self, listed: Census) -> Difference:
        """Deletes what only this node has, and had the last time."""
        known, now_s = b"", time.monotonic()
        is_due = now_s - self._alone_s >= ALONE_S
        if self._alone and is_due and not (await self._node.statistics()).internal:
            known = self._alone
        found = await self._states.compare_all(listed.hashes, known)
        if is_due or not self._alone:
            common = listed.total - len(found.missing) // HASH_BYTES
            believed = is_believed(len(found.alone) // HASH_BYTES, common)
            self._alone, self._alone_s = found.alone if believed else b"", now_s
        return found

    async def _list_both(self) -> tuple[Census, Census]:
        """The primary's and this node's, at the same time: what is on its way counts as missing, which is of
        no harm where much is missing."""
        listing = asyncio.create_task(self._states.list())
        try:
            return await self._ask_list(), await listing
        finally:
            listing.cancel()
            await asyncio.wait((listing,))
            if not listing.cancelled():
                listing.exception()  # one of the two was raised

    async def _ask_list(self) -> Census:
        answer = await self._ask((AskStates(next(self._numbers)),), ANSWER_LIMIT_S)
        if not isinstance(answer, Census):
            raise UnavailableError(f"{self._node.peer} does not list its states")
        return answer

    async def _ask_missing(self, hashes: bytes, pace: int) -> int:
        """How many of them still lived."""
        parts = parts_of(next(self._numbers), hashes, pace)
        answer = await self._ask(parts, ANSWER_LIMIT_S + 4 * len(hashes) / HASH_BYTES / pace)
        if not isinstance(answer, StatesTouched):
            raise UnavailableError(f"{self._node.peer} does not report its states again")
        return answer.count

    async def _ask(
        self, messages: tuple[AskStates | StatesPart, ...], limit_s: float
    ) -> StatesMessage | Census:
        """`limit_s`: for all of it, asking and answering."""
        future: asyncio.Future[StatesMessage | Census] = asyncio.get_running_loop().create_future()
        self._asked = messages[0].number, future
        until_s = time.monotonic() + limit_s
        for message in messages:
            if future.done():  # refused before it was asked to the end
                break
            while not self._node.speak(message):
                self._require_answer(until_s)
                await asyncio.sleep(POLL_S)
            self._require_answer(until_s)
            await asyncio.sleep(PART_PAUSE_S)
        while not future.done():
            self._require_answer(until_s)
            await asyncio.wait((future,), timeout=POLL_S)
        answer = future.result()
        if isinstance(answer, StatesRefused):
            raise UnavailableError(f"the agent of {self._node.peer}: {answer.reason}")
        return answer

    def _require_answer(self, until_s: float) -> None:
        """Raises UnavailableError when none is to be waited for any more."""
        if reason := self._why_not():
            raise UnavailableError(f"{reason} any more")
        if time.monotonic() > until_s:
            raise UnavailableError(f"the agent of {self._node.peer} does not answer about its states")

    async def _settle(self) -> None:
        """Until what was reported has come in."""
        until_s = time.monotonic() + SETTLE_LIMIT_S
        quiet, before = 0, kernel_states()
        while quiet < QUIET_TIMES and time.monotonic() < until_s:
            await asyncio.sleep(QUIET_S)
            now = kernel_states()
            quiet = quiet + 1 if now - before < max(TRICKLE, before // TRICKLE_SHARE) else 0
            before = now

    # -- both sides --

    def take(self, message: StatesMessage) -> None:
        """What the peer says."""
        match message:
            case AskStates():
                self._begin(message.number, partial(self._answer, message))
            case StatesPart() if self._asked is not None and message.number == self._asked[0]:
                hashes = self._collected.add(message)
                if hashes is not None:
                    self._found(message.number, Census(message.protocols, hashes))
            case StatesPart():
                hashes = self._collected.add(message) if message.per_second else None
                if hashes is not None:
                    self._begin(message.number, partial(self._touch, message, hashes))
            case StatesTouched() | StatesRefused():
                self._found(message.number, message)

    def _found(self, number: int, answer: StatesMessage | Census) -> None:
        if self._asked is not None and self._asked[0] == number and not self._asked[1].done():
            self._asked[1].set_result(answer)

    # -- a primary's side --

    def _begin(self, number: int, answering: Callable[[], Awaitable[None]]) -> None:
        """A question takes the place of the one before, which nobody waits for any more. That one is gone
        before this one is answered."""
        self._question = number, answering
        self._questioned.set()
        self._stop_answering()

    def _stop_answering(self) -> None:
        """Once: a second time would cut off the end of its process, too."""
        if self._answering is not None and not self._answering.cancelling():
            self._answering.cancel()

    async def _carry_out(self, number: int, answering: Callable[[], Awaitable[None]]) -> None:
        reason = self._node.can()
        if not self._serves:
            reason = "it is not the primary"
        try:
            if not reason:
                await answering()
        except HafwError as error:
            reason = error.message
        if reason:
            self._node.speak(refused_for(number, reason))

    async def _answer(self, asked: AskStates) -> None:
        listed = await self._states.list()
        self._protocols = listed.protocols
        await self._say(parts_of(asked.number, listed.hashes, protocols=listed.protocols))

    async def _touch(self, asked: StatesPart, hashes: bytes) -> None:
        count = await self._states.touch(hashes, min(asked.per_second, FASTEST))
        await self._say((StatesTouched(asked.number, count),))

    async def _say(self, messages: tuple[StatesMessage, ...]) -> None:
        """The node that has asked waits no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_LIMIT_S):
                for message in messages:
                    await self._say_one(message)
                    await asyncio.sleep(PART_PAUSE_S)

    async def _say_one(self, message: StatesMessage) -> None:
        """The socket does not report that it has room again: nobody else waits for that."""
        while True:
            if self._node.speak(message):
                return
            await asyncio.sleep(POLL_S)
