# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that lists the elements of dynamic sets, or puts those of the other node into them: many are
seconds of computing, which must never hold up the agent's loop. One job for each process: what to do comes
by its standard input, what came of it leaves by its standard output.

Elements are packed JSON, `{"blocked": [["192.0.2.1", 300], ["2001:db8::1", null]]}`: an address, and the
seconds that it has left. They come from the other node, which is known, and are read as if it were not.
"""

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agent.adapters.dynamic_sets import Element, list_elements, put_elements
from agent.adapters.state_work import be_first_to_go
from agent.errors import HafwError
from agent.plain_address import ScopedAddressError, read_plain_address

LIST, PUT, REPLACE, PUT_BESIDE = "list", "put", "replace", "put-beside"
MAX_ELEMENTS = 65_536
"""Of all sets together."""
MAX_TEXT = MAX_ELEMENTS * 80
MAX_LEFT_S = 1 << 32

SetContents = Mapping[str, Sequence[Element]]


@dataclass(frozen=True, slots=True)
class SetsJob:
    """`what`: LIST, PUT (what is `differing` alone, in the place of those that are there), REPLACE (all of
    them) or PUT_BESIDE. `names`: of the dynamic sets of this node. `packed`: what is to be put into them."""

    what: str
    names: tuple[str, ...]
    packed: bytes = b""
    differing: bytes = b""
    """What a PUT before this one has said."""

    def to_bytes(self) -> bytes:
        head = json.dumps([self.what, self.names, len(self.packed)])
        return head.encode() + b"\n" + self.packed + self.differing

    @classmethod
    def from_bytes(cls, data: bytes) -> "SetsJob":
        line, _, rest = data.partition(b"\n")
        what, names, size = json.loads(line)
        return cls(what, tuple(names), rest[:size], rest[size:])


@dataclass(frozen=True, slots=True)
class SetsDone:
    """`changed`: how many elements came, went, or got another time. `packed`: those of a LIST, or those that
    differ still after a PUT, empty when none does. `error`: why there is nothing else."""

    changed: int = 0
    packed: bytes = b""
    error: str = ""

    def to_bytes(self) -> bytes:
        return json.dumps([self.changed, self.error]).encode() + b"\n" + self.packed

    @classmethod
    def from_bytes(cls, data: bytes) -> "SetsDone":
        line, _, rest = data.partition(b"\n")
        changed, error = json.loads(line)
        return cls(changed, rest, error)


def pack_elements(contents: SetContents) -> bytes:
    """Raises HafwError when they are too many."""
    count = sum(map(len, contents.values()))
    if count > MAX_ELEMENTS:
        raise HafwError(f"there are {count} elements; no more than {MAX_ELEMENTS} are sent")
    found = {name: [[str(one.address), one.expires_s] for one in some] for name, some in contents.items()}
    return zlib.compress(json.dumps(found, separators=(",", ":")).encode())


def unpack_elements(data: bytes) -> SetContents:
    """Raises HafwError."""
    try:
        opened = zlib.decompressobj()
        text = opened.decompress(data, MAX_TEXT)
        if not opened.eof:
            raise HafwError("the elements that came are cut off, or too many")
        found = json.loads(text)
        contents = {name: [_element(one) for one in some] for name, some in found.items()}
    except ScopedAddressError as error:
        raise HafwError(f"what came are no elements of sets: {error}") from error
    except (zlib.error, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise HafwError("what came are no elements of sets") from error
    if sum(map(len, contents.values())) > MAX_ELEMENTS:
        raise HafwError(f"more than {MAX_ELEMENTS} elements came")
    return contents


def _element(found: object) -> Element:
    """ValueError for what is none."""
    match found:
        case [str() as address, None]:
            return Element(read_plain_address(address))
        case [str() as address, int() as left_s] if type(left_s) is int and 0 <= left_s <= MAX_LEFT_S:
            return Element(read_plain_address(address), left_s)
        case _:
            raise ValueError("that is no element")


def work(job: SetsJob) -> SetsDone:
    """Raises HafwError."""
    if job.what == LIST:
        return SetsDone(packed=pack_elements({name: list_elements(name) for name in job.names}))
    wanted = unpack_elements(job.packed)
    if {*wanted} != {*job.names}:
        raise HafwError("the nodes have other dynamic sets", "see: hafw rules diff")
    if job.what != PUT:
        beside = job.what == PUT_BESIDE
        return SetsDone(
            sum(put_elements(name, some, beside=beside).changed for name, some in wanted.items())
        )
    known = unpack_elements(job.differing) if job.differing else {}
    put = {
        name: put_elements(name, some, among={one.address for one in known.get(name, ())})
        for name, some in wanted.items()
    }
    found = (
        (name, Element(address)) for name, one in put.items() for address in sorted(one.differing, key=int)
    )
    differing: dict[str, list[Element]] = {}
    for name, element in islice(found, MAX_ELEMENTS):  # the others are found in the sending after that
        differing.setdefault(name, []).append(element)
    return SetsDone(sum(one.changed for one in put.values()), pack_elements(differing) if differing else b"")


def main() -> None:
    be_first_to_go(Path("/proc/self/oom_score_adj"))
    try:
        answer = work(SetsJob.from_bytes(sys.stdin.buffer.read()))
    except HafwError as error:
        answer = SetsDone(error=str(error))
    sys.stdout.buffer.write(answer.to_bytes())


if __name__ == "__main__":
    main()
