# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists the table of states of the node it runs in: `python3 -I -c SOURCE IGNORED...`, the addresses in
hexadecimal that are the firewalls' own.

For each line `count` or `list` on standard input, one answer: a header with the number of all states and the
length of what follows it, which is nothing, or the original tuples of those states that are replicated, in
the kernel's bytes. A tuple begins with its length. Standard library only and no other file: the node need
not see the checkout, and nothing of the agent has a part in what is measured.

Hard facts
* The original tuple is the first attribute of a listed state, the reply's the second, and both have the same
  size; an address in it has a fixed place.
* The kernel lists a tuple in the same bytes on both nodes.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator

HEADER = struct.Struct("=QQ")
COUNT, LIST = b"count\n", b"list\n"
PROTOCOLS = frozenset((1, 6, 17, 58, 132))
"""ICMP, TCP, UDP, ICMPv6, SCTP: whose states are replicated."""

_COUNT_FILE = "/proc/sys/net/netfilter/nf_conntrack_count"
_NETFILTER = 12
_GET = 0x101
"""Of the conntrack subsystem."""
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_MESSAGE = struct.Struct("=IHHII")
_HEADS = 20
"""Of netlink and of netfilter, before the first attribute."""
_BUFFER = 1 << 20
_PROTOCOL_AT: dict[int, int] = {socket.AF_INET: 32, socket.AF_INET6: 56}
_SOURCE_AT: dict[int, slice] = {socket.AF_INET: slice(12, 16), socket.AF_INET6: slice(12, 28)}


def list_tuples(ignored: frozenset[bytes]) -> Iterator[bytes]:
    """Without those that begin or end at an address of `ignored`. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as asked:
        asked.bind((0, 0))
        asked.send(_MESSAGE.pack(_HEADS, _GET, _REQUEST_DUMP, 0, 0) + bytes(4))
        while True:
            data = asked.recv(_BUFFER)
            at = 0
            while at < len(data):
                length, kind = _MESSAGE.unpack_from(data, at)[:2]
                if kind in (_ERROR, _DONE):
                    (code,) = struct.unpack_from("=i", data, at + _MESSAGE.size)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                first = at + _HEADS
                second = first + data[first]
                found, reply = data[first:second], data[second : second + data[first]]
                place = _SOURCE_AT[data[at + _MESSAGE.size]]
                own = found[place] in ignored or reply[place] in ignored
                if not own and found[_PROTOCOL_AT[data[at + _MESSAGE.size]]] in PROTOCOLS:
                    yield found
                at += length + 3 & ~3


def main(*ignored: str) -> None:
    own = frozenset(map(bytes.fromhex, ignored))
    for line in sys.stdin.buffer:
        tuples = b"".join(list_tuples(own)) if line == LIST else b""
        with open(_COUNT_FILE, "rb") as file:
            sys.stdout.buffer.write(HEADER.pack(int(file.read()), len(tuples)) + tuples)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
