"""The interfaces on which somebody in this network namespace has joined VRRP's multicast groups.

Hard facts
* /proc/net/igmp has a line for each interface, and below it, indented, one for each group: the address as
  the kernel holds it, in hexadecimal, which on a little-endian machine is from back to front.
* /proc/net/igmp6 has a line for each group: index, interface, address, users. Without IPv6 it is not there.
* A membership belongs to a socket and to an interface's index; it is gone with either.
"""

import socket
import sys
from pathlib import Path

from agent.core.groups import Group
from agent.errors import UnavailableError

_GROUP_4 = f"{int.from_bytes(socket.inet_aton('224.0.0.18'), sys.byteorder):08X}"
_GROUP_6 = socket.inet_pton(socket.AF_INET6, "ff02::12").hex()
_NET = Path("/proc/net")


def read_groups(net: Path = _NET) -> frozenset[Group]:
    """Raises UnavailableError where the kernel does not show them."""
    try:
        old = _read(net / "igmp")
        new = _read(net / "igmp6") if (net / "igmp6").exists() else ""
    except OSError as error:
        raise UnavailableError(f"cannot read the multicast groups: {error.strerror}") from error
    return frozenset((*_of_igmp(old), *_of_igmp6(new)))


def _read(path: Path) -> str:
    """A name may hold any byte but a blank, a colon and a slash."""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def _of_igmp(text: str) -> set[Group]:
    found, interface = set(), ""
    for line in text.split("\n")[1:]:
        words = line.split()
        if not words:
            continue
        if not line[0].isspace():
            interface = words[1].rstrip(":") if len(words) > 1 else ""
        elif words[0] == _GROUP_4:
            found.add((interface, 4))
    return found


def _of_igmp6(text: str) -> set[Group]:
    lines = (line.split() for line in text.split("\n"))
    return {(words[1], 6) for words in lines if len(words) > 2 and words[2] == _GROUP_6}
