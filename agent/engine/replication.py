# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether conntrackd answers, is still the same one, and could do what the peer's messages asked for."""

import time
from collections.abc import Callable

from agent.adapters.conntrackd import Conntrackd, Statistics, kernel_states
from agent.core.conditions import Condition
from agent.core.events import ConditionSeen, ConntrackdAsked, ConntrackdStarted, QueryResult, StatesCounted
from agent.core.replication import Losses, judge_losses
from agent.engine.loop import Loop
from agent.engine.result import answer_of
from agent.errors import HafwError, UnavailableError

_UNHEARD = {Condition.CONNTRACKD, Condition.CONNTRACKD_SILENT, Condition.CONNTRACKD_UNCLEAR}


class ReplicationCheck:
    def __init__(self, conntrackd: Conntrackd, loop: Loop) -> None:
        self._conntrackd = conntrackd
        self._loop = loop
        self._seen: tuple[int, int] | None = None
        self._unheard = False
        """The last poll found no conntrackd."""
        self._losses: Losses | None = None
        self.is_compared: Callable[[], bool] = lambda: False
        """Whether the states are just being compared, which may find what is lost."""

    def start(self) -> None:
        """The plans that begin now speak to this conntrackd; another one has heard nothing of them."""
        self._seen = self._conntrackd.socket_identity()

    async def check(self) -> None:
        counted, known = _count_kernel(), self._losses
        try:
            statistics = await self._conntrackd.statistics()
        except HafwError as error:
            self._seen = None
            self._unheard = True
            self._loop.post(ConntrackdAsked(time.monotonic_ns(), answer_of(error), error.message))
            return
        identity = self._conntrackd.socket_identity()
        if identity != self._seen and identity is not None:
            unheard = self._unheard or _UNHEARD & self._loop.state.problems.keys()
            first = self._seen is None and not unheard
            self._seen, self._unheard = identity, False
            self._losses = None
            if not first:
                self._loop.post(ConntrackdStarted(time.monotonic_ns()))
        self._loop.post(ConntrackdAsked(time.monotonic_ns(), QueryResult.OK))
        # statistics that are older than what a comparison has found meanwhile seem to go back
        if self._losses is None or self._losses is known:
            self._check_losses(statistics)
        if counted is not None:
            self._loop.post(StatesCounted(*counted, statistics.internal))

    def made_good(self, losses: Losses) -> None:
        """A comparison has found all states that were lost until conntrackd counted this."""
        self._losses = losses

    def _check_losses(self, statistics: Statistics) -> None:
        """conntrackd only counts what it could not do; a count that has grown since the last poll is an
        alarm."""
        before = statistics.losses if self._losses is None else self._losses
        if self.is_compared():
            self._losses = before  # a comparison that does not get to its end has found nothing
            return
        self._losses = statistics.losses
        found = judge_losses(self._loop.state.role, self._losses.since(before))
        if found is not None:
            self._loop.post(ConditionSeen(time.monotonic_ns(), *found))


def _count_kernel() -> tuple[int, int] | None:
    """The moment, and how many states the kernel has; None while it tracks none."""
    try:
        return time.monotonic_ns(), kernel_states()
    except UnavailableError:
        return None
