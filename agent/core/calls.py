# SPDX-License-Identifier: GPL-2.0-or-later
"""A question of one node to the other that is longer than a message, and its answer. Pure.

    asker     Ask(part 0) ........ Ask(part 1) ........ ... Ask(last) .........................
    answerer  ............ Reply(1 taken) .... Reply(2 taken) ..... Reply(all taken) ... Reply(with data)

Each message replaces the one before, and comes by every path: so parts come more than once, and what is not
the next one is skipped.
"""

from dataclasses import dataclass

PART_BYTES = 32 * 1024
MAX_PARTS = 256


@dataclass(frozen=True, slots=True)
class Ask:
    """Part number `part` of `parts`, from 0. `call` names the question."""

    call: str
    part: int
    parts: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """`taken`: how many parts have come. `busy`: another question is being answered. `data`: the answer."""

    call: str
    taken: int
    data: bytes | None = None
    busy: bool = False


def split(call: str, data: bytes) -> tuple[Ask, ...]:
    """None when it is too long to be asked."""
    parts = max(1, -(-len(data) // PART_BYTES))
    pieces = (data[at * PART_BYTES : (at + 1) * PART_BYTES] for at in range(parts))
    return tuple(Ask(call, number, parts, piece) for number, piece in enumerate(pieces))


class Collector:
    """The question that is coming in, and the last one that was answered."""

    def __init__(self) -> None:
        self.call = ""
        self._pieces: list[bytes] = []
        self._whole = False

    @property
    def taken(self) -> int:
        return len(self._pieces)

    def take(self, ask: Ask) -> bytes | None:
        """The whole question when this was its last part. A new one begins with its first part."""
        if ask.call != self.call:
            if ask.part != 0:
                return None  # from before this node listened
            self.call, self._pieces, self._whole = ask.call, [], False
        if self._whole or ask.part != self.taken or ask.part >= ask.parts:
            return None
        self._pieces.append(ask.data)
        if self.taken < ask.parts:
            return None
        self._whole = True
        return b"".join(self._pieces)
