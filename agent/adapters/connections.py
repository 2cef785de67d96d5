"""The kernel's connections, and the end of exactly those that are named.

Hard facts
* conntrack(8) deletes by filters: one process for each connection, and whatever fits the filter goes. By
  netlink a state is deleted by its tuple and its id, so that a new one in its place is safe.
* conntrackd reports a deleted state to the peer like any that ends, and the peer's copy goes too.
* A connection that was announced (FTP's data) carries the status bit `expected`, and the tuple of the one
  that has announced it; it came in as related. It lives on when that one ends.
"""

import asyncio
import errno
import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from agent.adapters import process
from agent.errors import HafwError, ToolError, UnavailableError
from agent.rules.flows import Ends, Flow, Ways

_NETLINK_NETFILTER = 12
_CT_GET, _CT_DELETE = 1 << 8 | 1, 1 << 8 | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_ORIG, _REPLY, _STATUS, _ID, _MASTER, _ZONE = 1, 2, 3, 12, 14, 18
_NESTED = 0x8000
_EXPECTED = 0x1
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_TOOL_S = 10.0


def count() -> int:
    """How many connections the kernel has. 0 where it does not track any."""
    try:
        return int(_COUNT.read_text(encoding="ascii"))
    except OSError:
        return 0


def read_flows() -> list[Flow]:
    """Every connection of this network namespace. UnavailableError when the kernel does not report them."""
    with _open() as asked:
        _send(asked, _CT_GET, _REQUEST | _DUMP, socket.AF_UNSPEC, b"")
        return [flow for family, body in _answers(asked) if (flow := _flow(family, body)) is not None]


def end_flows(flows: Iterable[Flow]) -> int:
    """Deletes these states and no other. Returns how many were still there."""
    ended = 0
    with _open() as asked:
        for flow in flows:
            _send(asked, _CT_DELETE, _REQUEST | _ACK, flow.family, flow.key)
            code = -struct.unpack_from("=i", asked.recv(1 << 16), 16)[0]
            if code not in (0, errno.ENOENT):
                raise UnavailableError(f"cannot end a connection: {os.strerror(code)}")
            ended += code == 0
    return ended


def read_ways() -> Ways:
    """Where this node's packets go, from its routes and addresses."""
    routes: list[tuple[IPv4Network | IPv6Network, str]] = []
    for family, everywhere in (("-4", "0.0.0.0/0"), ("-6", "::/0")):
        for route in _ip("-json", family, "route", "show"):
            target, name = str(route.get("dst")), route.get("dev")
            if isinstance(name, str):
                network = everywhere if target == "default" else target
                routes.append((ip_network(network, strict=False), name))
    own = {
        ip_address(str(address[kind]))
        for link in _ip("-json", "address", "show")
        for address in _listed(link.get("addr_info"))
        for kind in ("local", "broadcast")
        if isinstance(address, dict) and kind in address
    }
    return Ways(tuple(sorted(routes, key=lambda one: -one[0].prefixlen)), frozenset(own))


def _ip(*arguments: str) -> list[dict[str, object]]:
    argv = ("ip", *arguments)
    process.use_pidfd_children()
    done = asyncio.run(process.run(argv, timeout_s=_TOOL_S))
    try:
        found = json.loads(done.stdout or "[]")
    except ValueError as error:
        raise HafwError(f"{' '.join(argv)} sent an invalid answer") from error
    if done.exit_status != 0 or not isinstance(found, list):
        raise ToolError(argv, f"{' '.join(argv)} failed", exit_status=done.exit_status, stderr=done.stderr)
    return [entry for entry in found if isinstance(entry, dict)]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _open() -> socket.socket:
    try:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        made.bind((0, 0))
    except OSError as error:
        raise UnavailableError(f"cannot ask for the connections: {error.strerror}") from error
    made.settimeout(10.0)
    return made


def _send(asked: socket.socket, kind: int, flags: int, family: int, body: bytes) -> None:
    whole = struct.pack("!BBH", family, 0, 0) + body
    asked.send(struct.pack("=IHHII", 16 + len(whole), kind, flags, 1, 0) + whole)


def _answers(asked: socket.socket) -> Iterator[tuple[int, bytes]]:
    """The family and the attributes of each state of a dump."""
    while True:
        try:
            batch = asked.recv(1 << 18)
        except OSError as error:
            raise UnavailableError(f"cannot read the connections: {error.strerror or error}") from error
        while len(batch) >= 16:
            size, kind = struct.unpack_from("=IH", batch)
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", batch, 16)[0]
                raise UnavailableError(f"cannot read the connections: {os.strerror(code)}", "run as root")
            yield batch[16], batch[20:size]
            batch = batch[max(16, (size + 3) & ~3) :]


def _flow(family: int, body: bytes) -> Flow | None:
    """None for what has no addresses."""
    found = dict(_attributes(body))
    original, reply = _ends(found.get(_ORIG, b"")), _ends(found.get(_REPLY, b""))
    if original is None or reply is None:
        return None
    saddr, daddr, protocol, sport, dport = original
    key = b"".join(
        _attribute(kind | (_NESTED if kind == _ORIG else 0), found[kind])
        for kind in (_ORIG, _ID, _ZONE)
        if kind in found
    )
    (status,) = struct.unpack("!I", found.get(_STATUS, b"\0\0\0\0"))
    master = _ends(found.get(_MASTER, b""))
    expected = bool(status & _EXPECTED)
    return Flow(family, key, saddr, daddr, protocol, sport, dport, reply[0], reply[3], expected, master)


def _ends(data: bytes) -> Ends | None:
    """Source, target, protocol and ports; for ICMP the type is the port of the target, and of the reply's
    source too."""
    found = dict(_attributes(data))
    addresses, protocol = dict(_attributes(found.get(1, b""))), dict(_attributes(found.get(2, b"")))
    source, target = addresses.get(1) or addresses.get(3), addresses.get(2) or addresses.get(4)
    if source is None or target is None or 1 not in protocol:
        return None
    kind = protocol.get(5) or protocol.get(8)
    ports = [struct.unpack("!H", protocol.get(place, b"\0\0"))[0] for place in (2, 3)]
    sport, dport = (0, kind[0]) if kind else ports
    return ip_address(source), ip_address(target), protocol[1][0], sport, dport


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4 : max(4, size)]
        data = data[max(4, (size + 3) & ~3) :]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
