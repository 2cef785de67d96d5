# SPDX-License-Identifier: GPL-2.0-or-later
"""How it is found out who speaks for keepalived, on a bus that is slow."""

import asyncio
import os
from pathlib import Path
from typing import Any

from agent.adapters.keepalived import KeepalivedBus, Watch
from agent.config import loader
from agent.errors import UnavailableError
from tests.checkout import EXAMPLES

PAIR = loader.load(EXAMPLES / "pair.yaml")


class SlowBus(KeepalivedBus):
    """Answers from a table; `slow` names what does not come in time."""

    def __init__(self) -> None:
        def ignore(*_: object) -> None:
            pass

        super().__init__(Path("/nowhere"), PAIR, Watch(ignore, ignore, ignore))
        self.slow = {"GetConnectionUnixUser"}
        self._bus = object()

    async def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> list[Any]:
        if member in self.slow or member == "Get":
            raise UnavailableError(f"{destination} does not answer {member} on the system bus")
        answers: dict[str, list[Any]] = {
            "NameHasOwner": [True],
            "GetNameOwner": [":1.7"],
            "GetConnectionUnixUser": [os.geteuid()],
            "GetConnectionUnixProcessID": [os.getpid()],
        }
        return answers[member]


def test_an_owner_who_could_not_be_asked_about_in_time_is_asked_about_again() -> None:
    async def scenario() -> None:
        bus = SlowBus()
        await bus.refresh()
        assert not bus.owned
        bus.slow.clear()
        await bus.refresh()
        assert bus.owned

    asyncio.run(scenario())
