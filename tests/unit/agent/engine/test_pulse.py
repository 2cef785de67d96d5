# SPDX-License-Identifier: GPL-2.0-or-later
"""That the agent itself was stalled is seen, said, and counted in."""

import asyncio
import time

import pytest

from agent.engine import pulse
from agent.engine.pulse import Pulse


def test_a_halt_is_reported_with_its_length_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_S", 0.01)
    monkeypatch.setattr(pulse, "STALL_NS", 100_000_000)
    monkeypatch.setattr(pulse, "OVER_AFTER_NS", 10_000_000)
    said: list[tuple[bool, float]] = []

    async def scenario() -> None:
        beating = Pulse(lambda still, seconds: said.append((still, seconds)))
        beating.start()
        begun = time.monotonic_ns()
        time.sleep(0.3)  # the whole loop stands
        assert beating.is_late(time.monotonic_ns())
        assert beating.stalled_ns(begun, time.monotonic_ns()) >= 300_000_000, "before the next beat as well"
        async with asyncio.timeout(10):
            while len(said) < 2:
                await asyncio.sleep(0)
        assert not beating.is_late(time.monotonic_ns())
        monkeypatch.setattr(pulse, "CATCHING_UP_NS", 10**12)
        behind = beating.behind_since_ns(time.monotonic_ns())
        assert behind is not None
        assert abs(behind - begun) < 100_000_000, "its events are read after the beat"
        monkeypatch.setattr(pulse, "CATCHING_UP_NS", 0)
        assert beating.behind_since_ns(time.monotonic_ns()) is None
        assert beating.stalled_ns(begun, begun + 200_000_000) == 200_000_000
        assert beating.stalled_ns(0, begun - 100_000_000) == 0
        beating.stop()
        assert not beating.is_late(time.monotonic_ns() + 10**12), "nobody waits for a beat"

    asyncio.run(scenario())
    assert [still for still, _ in said] == [True, False]
    assert said[0][1] >= 0.3
