# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists and fills dynamic sets in a process of its own, see agent/adapters/sets_work.py."""

from agent.adapters import process
from agent.adapters.sets_work import LIST, MAX_TEXT, PUT, PUT_BESIDE, REPLACE, SetsDone, SetsJob
from agent.errors import HafwError

LIMIT_S = 60.0
_WORK = "agent.adapters.sets_work"


class SetsProcess:
    """Every question raises HafwError when it cannot be answered."""

    async def list(self, names: tuple[str, ...]) -> bytes:
        """Packed, for the other node."""
        return (await _do(SetsJob(LIST, names))).packed

    async def put(self, names: tuple[str, ...], packed: bytes, differing: bytes) -> tuple[int, bytes]:
        """Those of the other node that were `differing` the last time. Returns how many were changed, and
        what differs beside them."""
        done = await _do(SetsJob(PUT, names, packed, differing))
        return done.changed, done.packed

    async def replace(self, names: tuple[str, ...], packed: bytes, *, beside: bool) -> int:
        """All of them by those of the other node, or these `beside` them. Returns how many were changed."""
        return (await _do(SetsJob(PUT_BESIDE if beside else REPLACE, names, packed))).changed


async def _do(job: SetsJob) -> SetsDone:
    data = await process.run_own(
        _WORK, job.to_bytes(), timeout_s=LIMIT_S, max_output=MAX_TEXT, libraries=True
    )
    answer = SetsDone.from_bytes(data)
    if answer.error:
        raise HafwError(answer.error)
    return answer
