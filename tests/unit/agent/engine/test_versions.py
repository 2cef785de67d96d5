# SPDX-License-Identifier: GPL-2.0-or-later
"""The versions of the other programs: asked of them, again when their daemon is another one, and without
anybody waiting for it."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import __version__
from agent.adapters.conntrackd import Run
from agent.adapters.process import Finished
from agent.adapters.versions import ask_version
from agent.engine import versions
from agent.engine.versions import Versions
from agent.errors import HafwError, SilentError

KEEPALIVED = Path("/usr/sbin/keepalived")
SAID = {
    "keepalived": Finished(0, "", "Keepalived v2.2.7 (01/16,2022)\n\nCopyright(C) 2001-2022\n"),
    "conntrackd": Finished(0, "Connection tracking userspace daemon v1.4.7. Licensed under GPLv2.\n", ""),
    "nft": Finished(0, "nftables v1.0.6 (Lester Gooch #5)\n", ""),
}


def answer(finished: Finished) -> Run:
    async def run(argv: tuple[str, ...], *, timeout_s: float) -> Finished:
        assert timeout_s > 0
        return finished

    return run


@pytest.mark.parametrize(
    ("program", "version"), [("keepalived", "2.2.7"), ("conntrackd", "1.4.7"), ("nft", "1.0.6")]
)
def test_each_says_its_version_in_its_own_words(program: str, version: str) -> None:
    assert asyncio.run(ask_version(Path("/usr/sbin") / program, answer(SAID[program]))) == version


@pytest.mark.parametrize("text", ["", "version two", "v", "v1", "\x1b[2Jv"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(HafwError, match="prints no version"):
        asyncio.run(ask_version(KEEPALIVED, answer(Finished(0, text, text))))


class World:
    """One program: which daemon of it runs, and what it answers."""

    def __init__(self) -> None:
        self.daemon: int | None = 1
        self.version = "1.2.3"
        self.asked = 0
        self.silent = False

    async def run(self, argv: tuple[str, ...], *, timeout_s: float) -> Finished:
        self.asked += 1
        if self.silent:
            raise SilentError(argv, "it hangs", retryable=True)
        return Finished(0, f"program v{self.version}", "")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "LOOK_S", 0.0)


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not fact():
            await asyncio.sleep(0)


async def some_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("fast")
def test_a_daemon_is_asked_once_and_another_one_again() -> None:
    async def story() -> None:
        world = World()
        known = Versions({KEEPALIVED: lambda: world.daemon}, world.run)
        assert known.known() == {"hafw": __version__, "kernel": os.uname().release}
        running = asyncio.create_task(known.run())
        await until(lambda: known.known().get("keepalived") == "1.2.3")
        world.version = "1.2.4"  # an upgrade; the daemon that runs is still the old one
        await some_turns()
        assert (world.asked, known.known()["keepalived"]) == (1, "1.2.3")
        world.daemon = None
        await some_turns()
        world.daemon = 2
        await until(lambda: known.known()["keepalived"] == "1.2.4")
        assert world.asked == 2
        running.cancel()

    asyncio.run(story())


@pytest.mark.usefixtures("fast")
def test_one_that_does_not_answer_is_not_known_and_asked_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        world = World()
        world.silent = True
        known = Versions({KEEPALIVED: lambda: world.daemon}, world.run)
        running = asyncio.create_task(known.run())
        await until(lambda: world.asked == 1)
        await some_turns()
        assert world.asked == 1, "it is not asked in a row"
        assert "keepalived" not in known.known()
        monkeypatch.setattr(versions, "AGAIN_S", 0.0)
        world.daemon = 2
        await until(lambda: world.asked >= 3)
        world.silent = False
        await until(lambda: known.known().get("keepalived") == "1.2.3")
        running.cancel()

    asyncio.run(story())
