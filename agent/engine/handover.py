# SPDX-License-Identifier: GPL-2.0-or-later
"""A handover, on either node: words to the peer, events to the loop, and what an administrator is told.

What is decided is in core/handover.py; who becomes primary is keepalived's affair.
"""

import asyncio
import contextlib
import math
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from agent.adapters.control_server import Say
from agent.core.events import HandoverAnnounced, HandoverBegun, HandoverEnded
from agent.core.handover import (
    ANNOUNCED_S,
    ANSWER_S,
    Objection,
    find_objections,
    find_objections_of_peer,
    find_objections_to_return,
    why_refused,
)
from agent.core.peer import Handover, HandoverStep, Heard, NodeStatus
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase, State
from agent.engine.loop import Loop
from agent.model import schema
from agent.model.pair import Pair
from agent.model.records import RecordKind

KNOWN = 8
"""So many handovers of the peer are remembered."""


class Mouth(Protocol):
    """PeerWatch, as far as it is needed here."""

    heard: Heard

    def describe_own(self) -> NodeStatus: ...
    def say_status(self) -> None: ...


class Handovers:
    def __init__(
        self, pair: Pair, node: str, loop: Loop, peer: Mouth, record: Callable[[RecordKind, str], None]
    ) -> None:
        self._node, self._peer_name = node, pair.peer_of(node).name
        # not the pair itself: it may have a policy that has long been replaced
        self._sync = pair.replication_names
        self._mode = pair.sync.mode
        self._loop, self._peer, self._record = loop, peer, record
        self.word: Handover | None = None
        """Part of what this node says of itself."""
        self._answered: str | None = None
        """The handover that the peer has announced, while it does."""
        self._asked: deque[str] = deque(maxlen=KNOWN)
        """Each is answered once: the paths differ, and a word may come when the handover is long over."""
        self._asked_s = 0.0
        """The peer's clock in the newest word of the announced one."""
        self._opened_s = -math.inf
        """When the gate was last opened for a handover, unless this node has become primary by it."""
        self._asking = False
        self._role = Role.UNKNOWN
        self._news = asyncio.Event()

    def status_heard(self, status: NodeStatus) -> None:
        self._news.set()
        said = status.handover
        if said is None or said.step not in (HandoverStep.ASKED, HandoverStep.GIVEN):
            if status.clock_s > self._asked_s:  # an older word, by a slower path, ends nothing
                self._forget()
            return
        if said.step is HandoverStep.ASKED and said.identity not in self._asked:
            self._answer(said.identity, status)
        if said.identity == self._answered:
            self._asked_s = max(self._asked_s, status.clock_s)

    def state_changed(self, state: State) -> None:
        """Called in the middle of the loop's turn: the peer is told when that is over."""
        self._news.set()
        changed, self._role = state.role is not self._role, state.role
        if state.role is Role.PRIMARY:
            self._opened_s = -math.inf
        if self._is_open_for_peer(state):
            self._record(RecordKind.HANDOVER, f"{self._peer_name} hands over: the gate is open for it")
            self._say(HandoverStep.OPEN)
        elif changed and (self._answered or self._asking):
            asyncio.get_running_loop().call_soon(self._peer.say_status)

    def _is_open_for_peer(self, state: State) -> bool:
        is_open = state.phase is Phase.EXPECTING and state.loaded is RuleSet.PRIMARY
        return is_open and self._answered is not None and self.word is None

    def _answer(self, identity: str, asker: NodeStatus) -> None:
        """To a peer that wants to hand over."""
        self._answered, self.word, self._asked_s = identity, None, asker.clock_s
        self._asked.append(identity)
        now_s = time.monotonic()
        reason = why_refused(self._loop.settings, self._loop.state, asker, now_s - self._opened_s)
        if reason is None:
            self._opened_s = now_s
            self._loop.post(HandoverAnnounced(time.monotonic_ns()))
            return
        self._record(RecordKind.HANDOVER, f"a handover of {self._peer_name} was refused: {reason}")
        self._say(HandoverStep.REFUSED, reason)

    def _forget(self) -> None:
        """The peer speaks of no handover any more."""
        if self._answered is None:
            return
        self._answered = self.word = None
        if self._loop.state.phase is Phase.EXPECTING:
            self._loop.post(HandoverEnded(time.monotonic_ns()))

    def _say(self, step: HandoverStep, reason: str = "", identity: str | None = None) -> None:
        self.word = Handover(identity or self._answered or "", step, reason)
        asyncio.get_running_loop().call_soon(self._peer.say_status)

    async def hand_over(self, say: Say, *, force: bool) -> dict[str, Any]:
        """Returns what came of it, or `error`: then nothing was changed."""
        if self._asking:
            return self._refuse("a handover is under way", ())
        self._asking = True
        try:
            return await self._hand_over(say, force=force)
        finally:
            self._asking, self.word = False, None
            self._peer.say_status()

    async def _hand_over(self, say: Say, *, force: bool) -> dict[str, Any]:
        state, peer = self._loop.state, self._peer_name
        if state.phase is not Phase.SERVING:
            return self._refuse(self._why_not_serving(), ())
        objections = self._find_objections()
        if objections and not force:
            return self._refuse("it would not be without loss", objections)
        self._answered = None  # one of the peer is over: this node is primary
        begun_s, identity = time.monotonic(), uuid.uuid4().hex[:12]
        refused = await self._ask(identity, say)
        if not self._serves():
            return self._refuse(f"{self._node} is not primary any more", objections)
        if refused is not None:
            objections = (*objections, Objection(refused, f"packets are lost until {peer} forwards"))
            if not force:
                return self._refuse("it would not be without loss", objections)
        for one in objections:
            await say(f"in spite of this: {one.reason}; {one.loss}")
        self._record(RecordKind.HANDOVER, f"handover to {peer}: this node gives up the addresses")
        self._say(HandoverStep.GIVEN, identity=identity)
        self._loop.post(HandoverBegun(time.monotonic_ns()))
        await say(f"{self._node} gives up the addresses, and still forwards what comes to it")
        return await self._finish(say, begun_s, objections)

    def _why_not_serving(self) -> str:
        role = self._loop.state.role
        if role is Role.PRIMARY:
            return f"{self._node} is primary, and does not forward yet"
        return f"{self._node} is not primary but {role.value}"

    def describe_fitness(self) -> dict[str, Any]:
        """For a drill: the role of this node, and what speaks against a handover of it (`away`), or to it
        (`back`)."""
        names, role = (self._node, self._peer_name), self._loop.state.role
        values = {"node": self._node, "peer": self._peer_name, "role": role.value}
        own, heard = self._peer.describe_own(), self._peer.heard
        if self._serves():
            away = [one.reason for one in self._find_objections()]
            back = find_objections_to_return(own, self._node)
        else:
            away = [self._why_not_serving()]
            back = find_objections_of_peer(own, heard, names, self._sync, self._mode, time.monotonic())
        if self._asking:
            away = ["a handover is under way", *away]
        return {**values, "away": away, "back": list(back)}

    def _find_objections(self) -> tuple[Objection, ...]:
        names = self._node, self._peer_name
        own, heard = self._peer.describe_own(), self._peer.heard
        return find_objections(own, heard, names, self._sync, self._mode, time.monotonic())

    async def _ask(self, identity: str, say: Say) -> str | None:
        """The peer to open its gate. Returns why it is not open."""
        await say(f"{self._peer_name} is asked to open its gate")
        self._say(HandoverStep.ASKED, identity=identity)

        def answer() -> Handover | None:
            status = self._peer.heard.status
            said = status.handover if status else None
            return said if said and said.identity == identity else None

        await self._until(lambda: answer() is not None or not self._serves(), ANSWER_S)
        said = answer()
        if said is None:
            return f"{self._peer_name} did not answer within {ANSWER_S:g} s"
        if said.step is not HandoverStep.OPEN:
            return f"{self._peer_name} refuses: {said.reason}"
        await say(f"the gate of {self._peer_name} is open, and it has all states")
        return None

    def _serves(self) -> bool:
        return self._loop.state.phase is Phase.SERVING

    async def _finish(self, say: Say, begun_s: float, objections: tuple[Objection, ...]) -> dict[str, Any]:
        """The machine ends it after its time, whatever comes or does not come."""
        loop, peer = self._loop, self._peer_name
        await self._until(lambda: loop.state.phase is Phase.HANDING, ANSWER_S)
        await self._until(lambda: loop.state.role is not Role.PRIMARY or not self._hands())
        gone_ns = loop.log.role_since_ns
        await self._until(lambda: self._peer_is_primary() or not self._hands())
        if loop.state.role is Role.PRIMARY:
            return self._failed(f"{peer} did not take over; {self._node} is primary", objections)
        if not self._peer_is_primary():
            return self._failed(f"{peer} was not heard as primary; see: hafw status", objections)
        heard = self._peer.heard
        status, taken_s = heard.status, heard.at_s
        assert status is not None
        gap_s = max(0.0, taken_s - status.role_s - gone_ns / 1e9)
        await say(f"{peer} is primary")
        await self._until(lambda: not self._hands(), ANNOUNCED_S)
        loop.post(HandoverEnded(time.monotonic_ns()))
        await self._until(lambda: not self._hands(), ANSWER_S)
        seconds = round(taken_s - begun_s, 3)
        text = (
            f"handed over to {peer} in {seconds:.2f} s; for about {gap_s * 1000:.0f} ms no node had the "
            "addresses, and both forwarded"
        )
        self._record(RecordKind.HANDOVER, text)
        return self._values(objections, text=text, seconds=seconds, gap_ms=round(gap_s * 1000, 1))

    def _hands(self) -> bool:
        return self._loop.state.phase is Phase.HANDING

    def _peer_is_primary(self) -> bool:
        status = self._peer.heard.status
        return status is not None and status.role is Role.PRIMARY and status.gate_open

    def _refuse(self, why: str, objections: tuple[Objection, ...]) -> dict[str, Any]:
        reasons = "; ".join(one.reason for one in objections)
        text = f"no handover: {why}" + (f" ({reasons})" if reasons else "")
        self._record(RecordKind.HANDOVER, text)
        return self._values(objections, error=text)

    def _failed(self, what: str, objections: tuple[Objection, ...]) -> dict[str, Any]:
        text = f"the handover failed: {what}"
        self._record(RecordKind.HANDOVER, text)
        return self._values(objections, error=text)

    def _values(self, objections: tuple[Objection, ...], **values: object) -> dict[str, Any]:
        both = {"from": self._node, "to": self._peer_name}
        return {
            "schema": schema.STATUS,
            **both,
            **values,
            "objections": [asdict(one) for one in objections],
        }

    async def _until(self, fact: Callable[[], bool], limit_s: float | None = None) -> None:
        """`fact` changes only with what is heard and with the state of the loop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not fact():
                    self._news.clear()
                    await self._news.wait()
