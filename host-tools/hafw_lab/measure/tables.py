# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of states of both firewalls, compared state by state.

Tables of a pair that works are never equal: states come and go while they are listed. So a state is missing
on the backup only if the primary had it before the backup's table was listed and still has it some time
afterwards.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from hafw_lab.client.node import Node
from hafw_lab.errors import LabError
from hafw_lab.measure import table_lister
from hafw_lab.model.topology import Topology

Tuples = frozenset[bytes]
_SECOND_LOOK_S = 1.5
"""Timeouts are sent in whole seconds, so the backup may give up a state up to a second before the
primary."""
_END_TIMEOUT_S = 10.0


class Table:
    """Of one node, as a program in it lists it. Every method raises LabError when the program is gone."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self._name, self._process = name, process

    def count(self) -> int:
        """All states; cheap."""
        return self._ask(table_lister.COUNT)[0]

    def list(self) -> Tuples:
        """The original tuples of the states that are replicated: two seconds for a million."""
        return split_tuples(self._ask(table_lister.LIST)[1])

    def _ask(self, line: bytes) -> tuple[int, bytes]:
        pipe, header = self._process, table_lister.HEADER
        assert pipe.stdin
        assert pipe.stdout
        try:
            pipe.stdin.write(line)
            pipe.stdin.flush()
        except OSError as error:
            raise self._gone() from error
        head = pipe.stdout.read(header.size)
        if len(head) < header.size:
            raise self._gone()
        count, size = header.unpack(head)
        tuples = pipe.stdout.read(size)
        if len(tuples) < size:
            raise self._gone()
        return count, tuples

    def _gone(self) -> LabError:
        return LabError(f"the program in node {self._name} that lists its states has ended")


def split_tuples(data: bytes) -> Tuples:
    """As table_lister.py puts them together."""
    found, at = [], 0
    while at < len(data):
        found.append(data[at : at + data[at]])
        at += data[at]
    return frozenset(found)


@contextmanager
def open_table(node: Node, topology: Topology) -> Iterator[Table]:
    """States of the firewalls of `topology` themselves are left out, as conntrackd leaves them out."""
    own = [address for one in topology.firewalls for link in one.links for address in link.addresses]
    ignored = [one.ip.packed.hex() for one in (*own, *topology.vips)]
    source = Path(table_lister.__file__).read_text(encoding="utf-8")
    loopback = [ip_address(text).packed.hex() for text in ("127.0.0.1", "::1")]
    argv = ["/usr/bin/python3", "-I", "-c", source, *ignored, *loopback]
    process = node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Table(node.name, process)
    finally:
        close(process)


def close(process: subprocess.Popen[bytes]) -> None:
    """End of input ends it, and so does the end of its node."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        process.communicate(timeout=_END_TIMEOUT_S)
        return
    process.kill()
    process.communicate()


class Comparison:
    """Of the primary's table with the backup's, again and again."""

    def __init__(self, primary: Table, backup: Table, wanted: Tuples) -> None:
        """`wanted`: what the primary had before the first comparison."""
        self._primary, self._backup, self._wanted = primary, backup, wanted

    def find_missing(self) -> tuple[Tuples, int]:
        """What the primary had at the end of the last comparison, and has still, and the backup has not; and
        when the backup's table had been listed, CLOCK_MONOTONIC in ns."""
        there = self._backup.list()
        at_ns = time.monotonic_ns()
        missing = self._wanted - there
        if missing:
            time.sleep(_SECOND_LOOK_S)
        self._wanted = self._primary.list()
        return missing & self._wanted, at_ns
