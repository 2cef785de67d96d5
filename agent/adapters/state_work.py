# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that lists states, reports them again and compares: seconds of computing at a million, which
must never hold up the agent's loop. One job for each process: what to do comes by its standard input, what
came of it leaves by its standard output. It ends with the agent that has started it.

Both are a line of JSON, and hashes after it.
"""

import contextlib
import json
import os
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

from agent.adapters.links import local_addresses
from agent.adapters.state_table import (
    PROTOCOLS,
    Listed,
    StateTable,
    delete,
    deletion_of,
    has_end,
    hash_of,
    time_left_s,
)
from agent.core.census import Census, Difference, compare, pack_hashes, unpack_hashes
from agent.core.refresh import DATAGRAMS
from agent.errors import UnavailableError

LIST, TOUCH = "list", "touch"
TOUCH_DATAGRAMS, TOUCH_ENDING = "touch-datagrams", "touch-ending"
COMPARE, COMPARE_ALL, SUBTRACT = "compare", "compare-all", "subtract"

_CIRCLE = 1 << 32

OOM_SCORE = 500


class OrphanedError(Exception):
    """The agent that has asked is gone."""


@dataclass(frozen=True, slots=True)
class Job:
    """`what`: LIST, TOUCH (those of `hashes`), TOUCH_DATAGRAMS, TOUCH_ENDING (see
    agent/core/refresh.py; `hashes`: what the last one found, `part`: the slice), COMPARE (`hashes`: of the
    primary's), COMPARE_ALL (all of the primary's; those of `own` that it has not are deleted), SUBTRACT
    (those of `own` from `hashes`). `ignored`: addresses, in hexadecimal digits."""

    what: str
    ignored: tuple[str, ...]
    per_second: float = 0.0
    hashes: bytes = b""
    own: bytes = b""
    part: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to_bytes(self) -> bytes:
        head = [self.what, self.ignored, self.per_second, self.part, len(self.hashes)]
        return json.dumps(head).encode() + b"\n" + self.hashes + self.own

    @classmethod
    def from_bytes(cls, data: bytes) -> "Job":
        line, _, rest = data.partition(b"\n")
        what, ignored, per_second, part, size = json.loads(line)
        return cls(what, tuple(ignored), per_second, rest[:size], rest[size:], (part[0], part[1], part[2]))


@dataclass(frozen=True, slots=True)
class WorkDone:
    """`count`: what was touched. `alone`, `ended`: of a COMPARE_ALL. `error`: why there is nothing else."""

    protocols: Mapping[str, int]
    count: int = 0
    hashes: bytes = b""
    error: str = ""
    alone: bytes = b""
    ended: bytes = b""

    def to_bytes(self) -> bytes:
        sizes = len(self.hashes), len(self.hashes) + len(self.alone)
        head = [dict(self.protocols), self.count, self.error, sizes]
        return json.dumps(head).encode() + b"\n" + self.hashes + self.alone + self.ended

    @classmethod
    def from_bytes(cls, data: bytes) -> "WorkDone":
        line, _, rest = data.partition(b"\n")
        protocols, count, error, (first, second) = json.loads(line)
        return cls(protocols, count, rest[:first], error, rest[first:second], rest[second:])

    @property
    def census(self) -> Census:
        return Census(self.protocols, self.hashes)

    @property
    def difference(self) -> Difference:
        return Difference(self.protocols, self.hashes, self.alone, self.ended)


class Worker:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._table = StateTable([bytes.fromhex(one) for one in job.ignored])
        self._parent = os.getppid()
        self._protocols = dict.fromkeys(PROTOCOLS, 0)

    def work(self) -> WorkDone:
        """Raises UnavailableError, and OrphanedError."""
        match self._job.what:
            case "list":
                hashes = pack_hashes(self._hashes(self._table.each()))
                return WorkDone(self._named(), hashes=hashes)
            case "touch":
                wanted = frozenset(unpack_hashes(self._job.hashes))
                return self._touch(one for one in self._table.each() if hash_of(one[2]) in wanted)
            case "touch-datagrams":
                return self._touch(self._table.each(DATAGRAMS))
            case "touch-ending":
                ending: list[int] = []
                done = self._touch(self._ending(ending))
                return replace(done, hashes=pack_hashes(ending))
            case "subtract":
                missing, _ = compare(self._job.hashes, unpack_hashes(self._job.own))
                return WorkDone(self._named(), hashes=pack_hashes(missing))
            case "compare":
                missing, _ = compare(self._job.hashes, [*self._hashes(self._table.each())])
                return WorkDone(self._named(), hashes=pack_hashes(missing))
            case _:
                return self._compare_all()

    def _compare_all(self) -> WorkDone:
        """What is at an end here, as the terminal of an administrator, has only this node, and stays."""
        before = frozenset(unpack_hashes(self._job.own))
        local = local_addresses() if before else frozenset[bytes]()
        now, deletions = array("Q"), dict[int, bytes]()
        for one in self._counted(self._table.each()):
            number = hash_of(one[2])
            now.append(number)
            if number in before and not has_end(one, local):
                deletions[number] = deletion_of(one)
        missing, alone = compare(self._job.hashes, now)
        ended = [number for number in alone if number in deletions]
        delete([deletions[number] for number in ended])
        left = (number for number in alone if number not in deletions)
        return WorkDone(
            self._named(),
            hashes=pack_hashes(missing),
            alone=pack_hashes(left),
            ended=pack_hashes(ended),
        )

    def _ending(self, ending: list[int]) -> Iterator[Listed]:
        """Connections, and into `ending` what has little time left."""
        begin, width, little_left_s = self._job.part
        first, many = int(begin * _CIRCLE), int(width * _CIRCLE)
        before = frozenset(unpack_hashes(self._job.hashes))
        for one in self._table.each(PROTOCOLS.keys() - DATAGRAMS):
            _, _, key, data, at = one
            place = crc32(key)
            if time_left_s(data, at) < little_left_s:
                ending.append(place)
            elif (place - first) % _CIRCLE >= many and place not in before:
                continue
            yield one

    def _touch(self, which: Iterator[Listed]) -> WorkDone:
        count = sum(1 for _ in self._counted(self._table.touch(which, self._job.per_second)))
        return WorkDone(self._named(), count)

    def _hashes(self, which: Iterator[Listed]) -> Iterator[int]:
        for one in self._counted(which):
            yield hash_of(one[2])

    def _counted(self, which: Iterator[Listed]) -> Iterator[Listed]:
        protocols = self._protocols
        left = look_again = 10_000
        for one in which:
            protocols[one[1]] += 1
            left -= 1
            if not left:
                left = look_again
                if os.getppid() != self._parent:
                    raise OrphanedError
            yield one

    def _named(self) -> dict[str, int]:
        return {PROTOCOLS[number]: count for number, count in self._protocols.items() if count}


def be_first_to_go(path: Path) -> None:
    """Where memory is short: the agent, which has started this, is to be among the last."""
    with contextlib.suppress(OSError):
        path.write_text(f"{OOM_SCORE}\n")


def main() -> None:
    be_first_to_go(Path("/proc/self/oom_score_adj"))
    job = Job.from_bytes(sys.stdin.buffer.read())
    try:
        answer = Worker(job).work()
    except UnavailableError as error:
        answer = WorkDone({}, error=error.message)
    sys.stdout.buffer.write(answer.to_bytes())


if __name__ == "__main__":
    main()
