# SPDX-License-Identifier: GPL-2.0-or-later
"""Which connections are reported again when the pass before did not end well."""

import asyncio

import pytest

from agent.core.refresh import Pass, Slice
from agent.engine import refresh
from agent.engine.refresh import Refresh
from agent.errors import UnavailableError


class Table:
    def __init__(self) -> None:
        self.asked: list[tuple[Slice, bytes]] = []
        self.fails = False

    async def touch_datagrams(self, per_second: float) -> int:
        assert per_second > 0
        return 3

    async def touch_ending(self, part: Slice, ending: bytes, per_second: float) -> Pass:
        assert per_second > 0
        self.asked.append((part, ending))
        if self.fails:
            raise UnavailableError("the kernel does not answer")
        return Pass(5, b"ending %d" % len(self.asked))


def test_a_pass_that_failed_is_made_up_for_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(refresh, "kernel_states", lambda: 10)
    table = Table()
    refreshing = Refresh(table, lambda: now_s)

    async def scenario() -> None:
        nonlocal now_s
        for fails in (False, False, True, False, False):
            table.fails = fails
            now_s += 30.0
            try:
                assert await refreshing.refresh() == 3
            except UnavailableError:
                assert fails

    asyncio.run(scenario())
    first, failed, again, last = table.asked
    assert first == (Slice(0.0, 0.125), b"")
    assert failed == (Slice(0.125, 0.125), b"ending 1")
    assert again == (Slice(0.125, 0.25, 360.0), b"ending 1")
    assert last == (Slice(0.375, 0.125), b"ending 3")
