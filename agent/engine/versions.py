# SPDX-License-Identifier: GPL-2.0-or-later
"""The versions that this node runs, for its peer: asked of each program at the start, and again when its
daemon is another one than before. Nobody waits for the answer.

A daemon that was not restarted since its package was upgraded still runs the version before. So what makes
us ask is the daemon, where a program has one, and not its file.
"""

import asyncio
import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

from agent import __version__
from agent.adapters.conntrackd import Run
from agent.adapters.versions import ask_version
from agent.errors import HafwError

LOOK_S = 2.0
AGAIN_S = 60.0
"""After a program that did not answer."""

Witness = Callable[[], Hashable]
"""What is another one when the version may be; None while there is nothing to ask for."""


class Versions:
    def __init__(self, programs: Mapping[Path, Witness], run: Run) -> None:
        self._programs, self._run = programs, run
        self._asked: dict[Path, Hashable] = {}
        self._again_s: dict[Path, float] = {}
        self._found: dict[str, str] = {}

    def known(self) -> dict[str, str]:
        """By the names of the programs, and of hafw and the kernel."""
        return {"hafw": __version__, "kernel": os.uname().release, **self._found}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for program, witness in self._programs.items():
                await self._look(program, witness())
            await asyncio.sleep(LOOK_S)

    async def _look(self, program: Path, seen: Hashable) -> None:
        now_s = asyncio.get_running_loop().time()
        due = now_s >= self._again_s.get(program, now_s + 1)
        if seen is None or (seen == self._asked.get(program) and not due):
            return
        self._asked[program] = seen
        self._again_s.pop(program, None)
        try:
            self._found[program.name] = await ask_version(program, self._run)
        except HafwError:
            self._found.pop(program.name, None)
            self._again_s[program] = asyncio.get_running_loop().time() + AGAIN_S
