# SPDX-License-Identifier: GPL-2.0-or-later
"""A question of one node to the other that is longer than a message, and its answer. Pure.

    asker     Ask(part 0) ........ Ask(part 1) ........ ... Ask(end) .........................
    answerer  ............ Reply(1 taken) .... Reply(2 taken) ..... Reply(all taken) ... Reply(with data)

Each message replaces the one before, and comes by every path: so parts come more than once, and what is not
the next one is skipped. Where all parts were taken, the asker says the end of them, which has no data, until
it has the answer: one that has started again meanwhile must not carry the question out a second time. It
replies that it has taken nothing.
"""

from dataclasses import dataclass

PART_BYTES = 32 * 1024
MAX_PARTS = 256


@dataclass(frozen=True, slots=True)
class Ask:
    """Part number `part` of `parts`, from 0; their end is number `parts`. `call` names the question."""

    call: str
    part: int
    parts: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """`taken`: how many parts have come, 0 of a question that is not known. `busy`: another one is
    being answered. `data`: the answer."""

    call: str
    taken: int
    data: bytes | None = None
    busy: bool = False


def split(call: str, data: bytes) -> tuple[Ask, ...]:
    """At least one, and the end."""
    parts = max(1, -(-len(data) // PART_BYTES))
    pieces = (data[at * PART_BYTES : (at + 1) * PART_BYTES] for at in range(parts))
    return tuple(Ask(call, number, parts, piece) for number, piece in enumerate((*pieces, b"")))


KEPT_CALLS = 64


class Collector:
    """The question that is coming in. One that has come in or was given up is known by its name: a path that
    was stuck may bring it again, long after."""

    def __init__(self) -> None:
        self.call = ""
        self.taken = 0
        self._pieces: list[bytes] = []
        self._past: dict[str, None] = {}

    def take(self, ask: Ask) -> bytes | None:
        """The whole question when this was its last part. A new one begins with its first part."""
        if ask.call != self.call:
            if ask.part != 0 or ask.call in self._past:
                return None  # from before this node listened, or from before the question that it is at
            self._begin(ask.call)
        if ask.part != self.taken or ask.part >= ask.parts:
            return None
        self._pieces.append(ask.data)
        self.taken += 1
        if self.taken < ask.parts:
            return None
        whole, self._pieces = b"".join(self._pieces), []
        return whole

    def knows(self, call: str) -> bool:
        return call == self.call or call in self._past

    def _begin(self, call: str) -> None:
        self._past[self.call] = None
        while len(self._past) > KEPT_CALLS:
            del self._past[next(iter(self._past))]
        self.call, self.taken, self._pieces = call, 0, []
