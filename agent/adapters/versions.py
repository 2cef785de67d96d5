# SPDX-License-Identifier: GPL-2.0-or-later
"""Which version of a program is installed, as the program says itself.

Hard facts: keepalived says it on stderr, the others on stdout. conntrackd ends the sentence with a period,
keepalived puts the date of the release behind it. What a program prints has no limit and no end of itself.
"""

import os
import re
from pathlib import Path

from agent.adapters.conntrackd import Run
from agent.errors import ToolError

LIMIT_S = 5.0
KEEPALIVED, NFT = "/usr/sbin/keepalived", "/usr/sbin/nft"
_ASKED_WITH = {"conntrackd": "-v"}
_VERSION = re.compile(r"\bv([0-9]{1,9}(?:\.[0-9]{1,9}){1,4})", re.ASCII)


async def ask_version(program: Path, run: Run) -> str:
    """Such as "2.2.7". Raises ToolError, also where it takes longer than LIMIT_S."""
    argv = (str(program), _ASKED_WITH.get(program.name, "--version"))
    finished = await run(argv, timeout_s=LIMIT_S)
    found = _VERSION.search(f"{finished.stdout}\n{finished.stderr}")
    if found is None:
        raise ToolError(argv, f"{' '.join(argv)} prints no version")
    return found[1]


def identity(program: Path) -> tuple[int, int] | None:
    """Changes with every installation; None where there is none."""
    try:
        found = os.stat(program)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
