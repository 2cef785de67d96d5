# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has lately sent what only the other node may send, and where that one advertises itself: the sets that
the rules fill (agent/rules/peer.py).

Hard facts
* `list set` of one set costs 0.1 ms however large the table is; a listing of the table or of a counter reads
  all of it. Two lists in one call do not work: the second set is not found (nft 1.0.6).
* Where nft names protocols it reads /etc/protocols under a lock of libc, which a copy that is made meanwhile
  never gets (agent/adapters/process.py).
* A set holds what rules put into it until its time is over; what is over is never listed.
"""

from collections.abc import Iterator

from agent.adapters.nft_context import Context, find, open_json_context
from agent.rules.nft_json import list_text
from agent.rules.nft_parse import entries_of
from agent.rules.objects import FAMILY, TABLE
from agent.rules.peer import ADVERTISED, STRANGER_SETS
from agent.rules.strangers import Stranger


class Strangers:
    """Reads the sets, in whichever thread uses it (one at a time)."""

    def __init__(self) -> None:
        self._context: Context = open_json_context()
        self._context.set_numeric_proto_output(True)

    def read(self) -> tuple[Stranger, ...] | None:
        """In a fixed order; None without our table. ToolError when nft does not answer."""
        found: list[Stranger] = []
        for name in STRANGER_SETS:
            answer = self._find(name)
            if answer is None:
                return None
            found += _strangers(answer)
        return tuple(sorted(found))

    def read_advertised(self) -> frozenset[str]:
        """By which interfaces the other node advertises itself as primary. ToolError as read()."""
        answer = self._find(ADVERTISED)
        return frozenset() if answer is None else frozenset(_interfaces(answer))

    def _find(self, name: str) -> str | None:
        argv = ("nft", "list", "set", FAMILY, TABLE, name)
        return find(self._context, list_text("set", table=TABLE, name=name), f"the set {name}", argv)


def _strangers(text: str) -> Iterator[Stranger]:
    for element in _elements(text):
        match element:
            case {"elem": {"val": {"concat": [str(interface), str(address), int(protocol)]}}}:
                yield Stranger(interface, address, protocol)


def _interfaces(text: str) -> Iterator[str]:
    for element in _elements(text):
        match element:
            case {"elem": {"val": str(interface)}}:
                yield interface


def _elements(text: str) -> Iterator[object]:
    for kind, body in entries_of(text):
        elements = body.get("elem") if kind == "set" else None
        yield from elements if isinstance(elements, list) else ()
