# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists, touches and compares the kernel's states in a process of its own, see agent/adapters/state_work.py.
A wait for it that is cancelled ends it at once: whatever it was about is for a later failover only.
"""

from collections.abc import Collection
from ipaddress import IPv6Address

from agent.adapters import process
from agent.adapters.state_work import (
    COMPARE,
    COMPARE_ALL,
    LIST,
    SUBTRACT,
    TOUCH,
    TOUCH_DATAGRAMS,
    TOUCH_ENDING,
    Job,
    WorkDone,
)
from agent.core.census import HASH_BYTES, MAX_STATES, Census, Difference
from agent.core.refresh import Pass, Slice
from agent.errors import UnavailableError
from agent.model.pair import IPAddress

LIMIT_S = 600.0
"""Touching all of the largest table, slowly."""
MAX_OUTPUT = 2 * MAX_STATES * HASH_BYTES + (1 << 16)
"""What is missing here, and what only this node has."""
_WORK = "agent.adapters.state_work"
_LOOPBACK = IPv6Address("::1")


class StateProcess:
    """Every question raises UnavailableError when the kernel does not answer it, ToolError when the process
    fails."""

    def __init__(self, ignored: Collection[IPAddress]) -> None:
        """`ignored`: the addresses of the firewalls themselves."""
        self._ignored = tuple(sorted(address.packed.hex() for address in (*ignored, _LOOPBACK)))

    async def list(self) -> Census:
        return (await self._do(LIST)).census

    async def touch(self, hashes: bytes, per_second: float) -> int:
        """Returns how many of them there still were."""
        return (await self._do(TOUCH, per_second, hashes)).count

    async def touch_datagrams(self, per_second: float) -> int:
        return (await self._do(TOUCH_DATAGRAMS, per_second)).count

    async def touch_ending(self, part: Slice, ending: bytes, per_second: float) -> Pass:
        """Connections, see agent/core/refresh.py."""
        where = part.begin, part.width, part.little_left_s
        done = await self._do(TOUCH_ENDING, per_second, ending, part=where)
        return Pass(done.count, done.hashes)

    async def compare(self, primary: bytes, own: Census | None = None) -> Difference:
        """What a backup lacks of these states of the primary. `own`: its own; listed when this is None."""
        if own is None:
            return (await self._do(COMPARE, 0.0, primary)).difference
        return Difference(own.protocols, (await self._do(SUBTRACT, 0.0, primary, own.hashes)).hashes)

    async def compare_all(self, primary: bytes, alone: bytes) -> Difference:
        """Of all states of the primary. Those of `alone` that it has not are deleted, unless this node
        itself is an end of them."""
        return (await self._do(COMPARE_ALL, 0.0, primary, alone)).difference

    async def _do(
        self,
        what: str,
        per_second: float = 0.0,
        hashes: bytes = b"",
        own: bytes = b"",
        part: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> WorkDone:
        job = Job(what, self._ignored, per_second, hashes, own, part)
        given = job.to_bytes()
        data = await process.run_own(_WORK, given, timeout_s=LIMIT_S, max_output=MAX_OUTPUT)
        answer = WorkDone.from_bytes(data)
        if answer.error:
            raise UnavailableError(answer.error)
        return answer
