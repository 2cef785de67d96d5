"""Who has lately sent what only the other node may send, and where that one advertises itself: the sets that
the rules fill (agent/rules/peer.py).

Hard facts
* `list set` of one set costs 0.1 ms however large the table is; a listing of the table or of a counter reads
  all of it. Two lists in one call do not work: the second set is not found (nft 1.0.6).
* A set holds what rules put into it until its time is over; what is over is never listed.
"""

import errno
import json
import os
from collections.abc import Iterator

from agent.adapters.nft_context import Context, first_line, open_context
from agent.errors import ToolError
from agent.rules.listing import entries_of
from agent.rules.nft_json import FAMILY, TABLE
from agent.rules.peer import ADVERTISED, STRANGER_SETS
from agent.rules.simulate import PROTOCOLS
from agent.rules.strangers import Stranger


class Strangers:
    """Reads the sets, in whichever thread uses it (one at a time)."""

    def __init__(self) -> None:
        self._context: Context = open_context()
        self._context.set_json_output(True)

    def read(self) -> tuple[Stranger, ...] | None:
        """In a fixed order; None without our table. ToolError when nft does not answer."""
        found: list[Stranger] = []
        for name in STRANGER_SETS:
            answer = self._list(name)
            if answer is None:
                return None
            found += _strangers(answer)
        return tuple(sorted(found))

    def read_advertised(self) -> frozenset[str]:
        """By which interfaces the other node advertises itself as primary. ToolError as read()."""
        answer = self._list(ADVERTISED)
        return frozenset() if answer is None else frozenset(_interfaces(answer))

    def _list(self, name: str) -> str | None:
        command = {"list": {"set": {"family": FAMILY, "table": TABLE, "name": name}}}
        status, output, errors = self._context.cmd(json.dumps({"nftables": [command]}))
        if status == 0:
            return output
        reason = first_line(errors)
        if os.strerror(errno.ENOENT) in reason:
            return None
        argv = ("nft", "list", "set", FAMILY, TABLE, name)
        raise ToolError(
            argv, f"nft cannot list the set {name}: {reason}", exit_status=status, retryable=True
        )


def _strangers(text: str) -> Iterator[Stranger]:
    for element in _elements(text):
        match element:
            case {"elem": {"val": {"concat": [str(interface), str(address), protocol]}}}:
                yield Stranger(interface, address, _number(protocol))


def _interfaces(text: str) -> Iterator[str]:
    for element in _elements(text):
        match element:
            case {"elem": {"val": str(interface)}}:
                yield interface


def _elements(text: str) -> Iterator[object]:
    for kind, body in entries_of(text):
        elements = body.get("elem") if kind == "set" else None
        yield from elements if isinstance(elements, list) else ()


def _number(protocol: object) -> int:
    """nft names what /etc/protocols names."""
    if isinstance(protocol, int):
        return protocol
    return PROTOCOLS.get(str(protocol), -1)
