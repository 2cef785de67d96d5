# SPDX-License-Identifier: GPL-2.0-or-later
"""Who carries out what concerns the states."""

import asyncio
from pathlib import Path

from agent.core.actions import Compared, Outcome, Timer
from agent.core.roles import Role
from tests.unit.agent.engine.bench import Bench


class Compares:
    async def compare(self, *, routine: bool) -> Outcome:
        return Compared(10, rounds=1 + routine)


def test_the_regular_re_send_is_conntrackds_own(tmp_path: Path) -> None:
    """Whatever else has states sent again leaves some of them to run out on a node that was primary, and
    their end is then replicated."""

    async def scenario() -> None:
        bench = Bench(tmp_path)
        bench.executor.comparison = Compares()
        async with bench.running(as_role=Role.PRIMARY):
            before = len(bench.host.done)
            bench.fire(Timer.REFRESH)
            await bench.at_rest()
            assert "bulk" in bench.host.done[before:]

    asyncio.run(scenario())
