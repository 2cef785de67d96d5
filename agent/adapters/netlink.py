# SPDX-License-Identifier: GPL-2.0-or-later
"""Which virtual addresses this node holds, from the kernel, and a hint whenever addresses or links change.

Hard facts (pyroute2 0.7.2 of Debian 12 and 0.7.7 of Debian 13):
* A dump of the addresses takes a quarter of a millisecond, so every hint is answered with a dump; the
  messages themselves are only drained. A queue that overflowed (ENOBUFS) is then nothing special.
* pyroute2's own __init__ loads a database, a test lab and multiprocessing: 11 MiB and a tenth of a second
  that a firewall's agent has no use for. The one module that is needed loads without them.
* The label of an address names its interface for IPv4 only; the index does for both families.
"""

import errno
import importlib
import socket
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from ipaddress import ip_address
from types import ModuleType
from typing import Any

from agent.errors import UnavailableError
from agent.model.pair import Interface, IPInterface


def _load(name: str) -> Any:
    """A module of pyroute2 without the package's __init__, which runs as usual if another module wants it
    later."""
    spec = find_spec("pyroute2")
    if "pyroute2" in sys.modules or spec is None:
        return importlib.import_module(name)
    bare = ModuleType("pyroute2")
    bare.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["pyroute2"] = bare
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["pyroute2"]


rtnl = _load("pyroute2.netlink.rtnl")
IPRSocket = _load("pyroute2.netlink.rtnl.iprsocket").IPRSocket
ifaddrmsg = _load("pyroute2.netlink.rtnl.ifaddrmsg").ifaddrmsg

_GROUPS = rtnl.RTMGRP_IPV4_IFADDR | rtnl.RTMGRP_IPV6_IFADDR | rtnl.RTMGRP_LINK
AT_ONCE = 64
_DUMP = 0x301
"""NLM_F_REQUEST | NLM_F_DUMP"""


class Addresses:
    def __init__(self, vips: Iterable[tuple[Interface, IPInterface]]) -> None:
        """Raises UnavailableError when no netlink socket can be opened."""
        self._wanted = {(interface.name, vip.ip) for interface, vip in vips}
        try:
            # pyroute2 would read each message into objects that are not used
            self._events = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
            self._events.bind((0, _GROUPS))
            self._queries = IPRSocket()
            self._queries.bind(groups=0)
        except OSError as error:
            raise UnavailableError(f"cannot open a netlink socket: {error.strerror}") from error

    def fileno(self) -> int:
        return self._events.fileno()

    def drain(self) -> None:
        """Take what waits off the socket, AT_ONCE messages at the most; what they say is read again by
        held()."""
        for _ in range(AT_ONCE):
            try:
                self._events.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise UnavailableError(f"netlink: {error.strerror}") from error

    def held(self) -> frozenset[str]:
        """The virtual addresses on this node now, as `address%interface`."""
        names: dict[int, str] = {}
        for wanted in {name for name, _ in self._wanted}:
            try:
                names[socket.if_nametoindex(wanted)] = wanted
            except OSError:
                continue
        found = set()
        for message in self._queries.nlm_request(ifaddrmsg(), rtnl.RTM_GETADDR, _DUMP):
            name = names.get(message["index"], "")
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if name and address and (name, ip_address(address)) in self._wanted:
                found.add(f"{address}%{name}")
        return frozenset(found)

    def close(self) -> None:
        self._events.close()
        self._queries.close()
