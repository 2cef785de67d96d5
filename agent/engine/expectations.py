# SPDX-License-Identifier: GPL-2.0-or-later
"""What a helper's work leaves to be reported to the peer once more (FTP, SIP and the like)."""

import asyncio
import socket
from collections.abc import Callable

from agent.adapters.ctnetlink import Announced, Conntrack
from agent.adapters.expectations import announce_again
from agent.adapters.pace import Pace, PacedReader

TELL_AGAIN_S = 0.002
"""An expectation is announced just before the packet that announced it is rewritten; then it has been."""
UNANSWERED_S = 0.2
"""An announced connection that has not come by then may take long, so that a failover can come between."""
MAX_UNANSWERED = 100
"""More at a time are not reported again: a flood of requests must not keep us from our work."""
PACE = Pace(at_once=200, per_second=500)


class ExpectationsWatch:
    def __init__(self, refuse: Callable[[str], None]) -> None:
        """Raises UnavailableError when no netlink socket can be opened."""
        self._refuse = refuse
        self._source = Conntrack(expectations=True)
        self._reader: PacedReader | None = None
        self._telling: set[tuple[int, bytes]] = set()
        self._unanswered = 0
        self._lost = 0
        self._closed = False

    def start(self) -> None:
        self._reader = PacedReader(self._source.fileno(), self._announced, PACE)

    def close(self) -> None:
        self._closed = True
        if self._reader is not None:
            self._reader.close()
        self._source.close()

    def _announced(self) -> int:
        """What the peer learns of a helper's work only if it is reported again. TCP: how far the rest of a
        connection is moved by a packet that was rewritten. UDP: what the first packet has announced."""
        later = asyncio.get_running_loop().call_later
        for one in self._source.announced():
            if one.protocol == socket.IPPROTO_TCP:
                if (one.family, one.master) not in self._telling:
                    self._telling.add((one.family, one.master))
                    later(TELL_AGAIN_S, self._tell_again, one)
            elif self._unanswered < MAX_UNANSWERED:
                self._unanswered += 1
                later(UNANSWERED_S, self._announce_again, one)
        if self._source.lost != self._lost:
            self._lost = self._source.lost
            self._refuse(
                f"announcements of helpers (FTP and the like) that come faster than "
                f"{PACE.per_second:.0f} in a second: {self._lost} skipped since the start"
            )
        return self._source.taken

    def _tell_again(self, one: Announced) -> None:
        self._telling.discard((one.family, one.master))
        if not self._closed:
            self._source.tell_again(one.family, one.master)

    def _announce_again(self, one: Announced) -> None:
        self._unanswered -= 1
        if not self._closed:
            announce_again(one.family, one.expected)
