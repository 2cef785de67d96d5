# SPDX-License-Identifier: GPL-2.0-or-later
"""Who carries out what concerns the states."""

import asyncio
from pathlib import Path

from agent.core.actions import Timer
from agent.core.roles import Role
from tests.unit.agent.engine.bench import Bench


def test_what_is_sent_again_regularly_is_not_everything(tmp_path: Path) -> None:
    """And the timer is set when it has ended, so that a slow one is never cut off by the next."""

    async def scenario() -> None:
        bench = Bench(tmp_path)
        refreshed = asyncio.Event()

        async def refresh() -> int:
            refreshed.set()
            return 7

        bench.executor.refresh = refresh
        async with bench.running(as_role=Role.PRIMARY):
            before = len(bench.host.done)
            bench.fire(Timer.REFRESH)
            await bench.at_rest()
            assert refreshed.is_set()
            assert bench.loop.state.touched == 7
            assert bench.executor.waits_for(Timer.REFRESH)
            assert "bulk" not in bench.host.done[before:]

    asyncio.run(scenario())
