# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node says of itself to its peer."""

import time
from collections.abc import Callable, Mapping

from agent.adapters.conntrackd import kernel_states
from agent.adapters.nftables import Nftables
from agent.core.peer import EVERY, NodeStatus
from agent.engine.loop import Loop
from agent.engine.observer import Observer
from agent.engine.versions import Versions
from agent.errors import HafwError
from agent.model.pair import SyncMode

ROUNDED = 2


class OwnStatus:
    def __init__(self, loop: Loop, observer: Observer, versions: Versions) -> None:
        self._loop, self._observer, self.versions = loop, observer, versions
        self.rules = ""
        """The digest of the rules that are to be in force."""
        self.generation: int | None = None
        self.protocols: Callable[[], Mapping[str, int]] = dict
        """The states that are replicated, as last counted."""
        self.compares = False
        self.pair_file = ""

    def take(self, pair_file: str, rules: Nftables) -> None:
        """What the node works by from now on. `pair_file`: its digest, which the loop does not compute."""
        self.pair_file, self.rules = pair_file, rules.digest

    @property
    def rules_in_force(self) -> str:
        return self.rules if self._loop.state.whole else ""

    def _count(self) -> dict[str, int]:
        return _count_states() if self._loop.settings.mode is SyncMode.DIRECT else {}

    def describe(self, heard: tuple[str, ...]) -> NodeStatus:
        """`heard`: by which paths the peer is."""
        state = self._loop.state
        return NodeStatus(
            role=state.role,
            role_s=_ago_s(self._loop.log.role_since_ns) or 0.0,
            gate_open=state.phase.is_open,
            clock_s=round(time.time(), ROUNDED),
            ready=state.ready,
            problems=tuple(sorted(condition.value for condition in state.problems)),
            keepalived=tuple(sorted(one.name for one in self._observer.bus.states())),
            states={**self._count(), **self.protocols()},
            pair_file=self.pair_file,
            rules=self.rules_in_force,
            generation=self.generation,
            versions=self.versions.known(),
            heard=heard,
            ceased_s=_ago_s(self._loop.log.ceased_ns),
            served_s=round(self._loop.log.served_ns / 1e9, ROUNDED),
            compares=self.compares,
        )


def _ago_s(moment_ns: int | None) -> float | None:
    return None if moment_ns is None else round((time.monotonic_ns() - moment_ns) / 1e9, ROUNDED)


def _count_states() -> dict[str, int]:
    """The kernel's. In cache mode those of a backup are elsewhere, so these numbers would say nothing."""
    try:
        return {EVERY: kernel_states()}
    except HafwError:
        return {}
