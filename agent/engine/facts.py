# SPDX-License-Identifier: GPL-2.0-or-later
"""What this node tells its peer for `hafw check --pair`: read beside the loop, told when it has changed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from agent.core.facts import PAIR_FILE, RULES, NodeFacts
from agent.engine.executor import Beside
from agent.engine.own_status import OwnStatus
from agent.engine.peer import PeerWatch
from agent.model import schema
from agent.model.pair import Pair
from agent.setup.node_facts import FactsReader, for_peer

LOOK_S = 2.0
LONG_LOOK_PAUSE = 20
"""How many times as long as a look took the next one waits at least."""


class FactsWatch:
    def __init__(self, reader: FactsReader, own: OwnStatus, peer: PeerWatch, beside: Beside) -> None:
        self._reader, self._own, self._peer, self._beside = reader, own, peer, beside
        self._told: NodeFacts | None = None

    async def run(self, pair: Callable[[], Pair]) -> None:
        """Until cancelled. `pair`: the one in force."""
        while True:
            begun_s = time.monotonic()
            read = await self._beside(partial(self._reader.read, pair()))
            facts = for_peer(read, self._known())
            if facts != self._told:
                self._told = facts
                self._peer.tell_facts(facts)
            await asyncio.sleep(max(LOOK_S, LONG_LOOK_PAUSE * (time.monotonic() - begun_s)))

    def _known(self) -> tuple[tuple[str, str], ...]:
        own = self._own
        return ((PAIR_FILE, own.pair_file), (RULES, own.rules_in_force), *own.versions.known().items())

    async def answer(self) -> dict[str, Any]:
        """For the command: what the agent knows of this node, and what the peer has told."""
        peer = self._peer.facts
        return {
            "schema": schema.STATUS,
            "known": dict(self._known()),
            "peer": asdict(peer) if peer is not None else None,
        }
