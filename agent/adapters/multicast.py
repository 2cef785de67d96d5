# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a process in this network namespace listens for VRRP: the interfaces on which its multicast groups
are joined, and the addresses that raw sockets for it are bound to.

Hard facts
* /proc/net/igmp has a line for each interface, and below it, indented, one for each group: the address as
  the kernel holds it, in hexadecimal, which on a little-endian machine is from back to front.
* /proc/net/igmp6 has a line for each group: index, interface, address, users. Without IPv6 it is not there.
* A membership belongs to a socket and to an interface's index; it is gone with either.
* Any user may join groups by the ten thousand, each of which is a line: so they are read one by one, and
  beside the loop.
* /proc/net/raw and raw6 have a line for each raw socket, which only root can open; the number behind the
  address is the protocol. keepalived binds the socket that it hears by to the group, with use_vmac as well,
  and with unicast to its own address; the one that it sends by to none.
"""

import ipaddress
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.core.groups import Group, Listening
from agent.errors import UnavailableError
from agent.model.pair import IPAddress

_GROUP_4 = f"{int.from_bytes(socket.inet_aton('224.0.0.18'), sys.byteorder):08X}"
_GROUP_6 = socket.inet_pton(socket.AF_INET6, "ff02::12").hex()
_VRRP = f"{112:04X}"
_WORD = 8
_NET = Path("/proc/net")


def read_listening(net: Path = _NET) -> Listening:
    """Raises UnavailableError where the kernel does not show them."""
    try:
        joined = {*_of_igmp(_lines(net / "igmp")), *_of_igmp6(_lines_if_any(net / "igmp6"))}
        bound = {*_of_raw(_lines(net / "raw")), *_of_raw(_lines_if_any(net / "raw6"))}
    except OSError as error:
        raise UnavailableError(f"cannot read who listens for VRRP: {error.strerror}") from error
    return Listening(frozenset(joined), frozenset(bound))


def _lines(path: Path) -> Iterator[str]:
    """A name may hold any byte but a blank, a colon and a slash."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        yield from file


def _lines_if_any(path: Path) -> Iterator[str]:
    if path.exists():
        yield from _lines(path)


def _of_igmp(lines: Iterable[str]) -> Iterator[Group]:
    interface = ""
    for number, line in enumerate(lines):
        words = line.split()
        if not number or not words:
            continue
        if not line[0].isspace():
            interface = words[1].rstrip(":") if len(words) > 1 else ""
        elif words[0] == _GROUP_4:
            yield interface, 4


def _of_igmp6(lines: Iterable[str]) -> Iterator[Group]:
    for words in map(str.split, lines):
        if len(words) > 2 and words[2] == _GROUP_6:
            yield words[1], 6


def _of_raw(lines: Iterable[str]) -> Iterator[IPAddress]:
    """Bound to an address of this node's own, which a group is not."""
    for words in map(str.split, lines):
        held, _, protocol = words[1].partition(":") if len(words) > 1 else ("", "", "")
        if protocol == _VRRP and len(held) in (_WORD, 4 * _WORD):
            address = _address(held)
            if not address.is_multicast and not address.is_unspecified:
                yield address


def _address(held: str) -> IPAddress:
    words = (held[place : place + _WORD] for place in range(0, len(held), _WORD))
    return ipaddress.ip_address(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words))
