# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own verdict on one packet, from a copy of this node: nothing is sent on any wire.

The process moves into a network namespace of its own, for good: its interfaces have the names, addresses and
routes of the node's, its ruleset is the loaded one, and a packet that arrives there is traced.

Hard facts
* Trace events come to NFNLGRP_NFTRACE, one for each rule that a packet matches to its end, for each policy
  and each return, with the handle of the rule. `nft monitor trace` has no JSON in 1.0.6; netlink has no
  version.
* What is sent into one end of a veth arrives at the other, through the same hooks as on any interface.
* A neighbor that does not answer comes after the last hook, so it need not be there.
* nft lists xt expressions (iptables-nft) in a way that it does not take back: such tables cannot be copied.
"""

import asyncio
import ctypes
import json
import os
import re
import select
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.adapters import process
from agent.adapters.frame import SENDER, Probe, build
from agent.adapters.nfnetlink import (
    FAMILIES,
    NETFILTER,
    NFTABLES,
    Attributes,
    as_number,
    as_text,
    messages,
    of_generic,
    parse_attributes,
)
from agent.adapters.ruleset_dump import Ruleset, mark, read_ruleset, read_texts
from agent.errors import HafwError, ToolError, UnavailableError
from agent.rules.trace import Event

_CLONE_NEWNET = 0x40000000
_NFNLGRP_NFTRACE = 9
_MSG_TRACE = NFTABLES | 17
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT = 1, 2, 3, 4, 5
_POLICY = 16
_TYPES = {1: "policy", 2: "return", 3: "rule"}
_VERDICTS = {
    0: "drop",
    1: "accept",
    3: "queue",
    -1: "continue",
    -2: "break",
    -3: "jump",
    -4: "goto",
    -5: "return",
}
_TOOL_S = 10.0
_FIRST_S = 3.0
_QUIET_S = 0.5
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}


def trace(ingress: str, probe: Probe) -> tuple[list[Event], Ruleset]:
    """What `probe` passes when it arrives at `ingress`. The ruleset is the copy's, with the tables that
    could not be copied named in it. HafwError, for example without root."""
    links = json.loads(_ip("-json", "address", "show"))
    if not any(link.get("ifname") == ingress for link in links):
        known = ", ".join(sorted(str(link.get("ifname")) for link in links))
        raise HafwError(f"this node has no interface {ingress}", f"it has {known}")
    if ingress == "lo":
        raise HafwError("nothing arrives at lo from outside", "give the interface where the packet arrives")
    if re.fullmatch(r"[A-Za-z0-9._-]{1,15}", ingress) is None:
        raise HafwError(f"the name of the interface {ingress!r} is not a plain name to nft", "rename it")
    routes = _routes("-4") + _routes("-6")
    loaded = read_texts()
    _enter_namespace()
    hardware = _copy_links(links, ingress, routes)
    missing = loaded.load()
    mark(marking(ingress))
    events = watch(_peer_of(links, ingress), build(probe, hardware))
    return events, read_ruleset(missing)


def _ip(*arguments: str) -> str:
    process.use_pidfd_children()
    argv = ("ip", *arguments)
    done = asyncio.run(process.run(argv, timeout_s=_TOOL_S))
    if done.exit_status != 0:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[0]
        raise ToolError(argv, f"ip cannot copy this node: {reason}", exit_status=done.exit_status)
    return done.stdout


def _routes(family: str) -> list[str]:
    """As `ip route replace` takes them again."""
    lines = _ip(family, "-oneline", "route", "show").splitlines()
    dropped = {"linkdown", "dead", "offload", "trap", "\\"}
    return [
        f"{family} route replace {' '.join(word for word in line.split() if word not in dropped)}"
        for line in lines
        if line.strip()
    ]


def _enter_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.unshare came with Python 3.12
    if libc.unshare(_CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise UnavailableError(f"cannot make a network namespace for the copy: {reason}", "run as root")
    for name, value in _SYSCTLS.items():
        try:
            Path("/proc/sys", name).write_text(value, encoding="ascii")
        except FileNotFoundError:
            continue  # a kernel without IPv6
        except OSError as error:
            raise UnavailableError(
                f"cannot set {name} in the copy: {error.strerror}", "run as root"
            ) from error


def _copy_links(links: list[dict[str, Any]], ingress: str, routes: list[str]) -> bytes:
    """Returns the hardware address of `ingress`. Each interface is one end of a veth."""
    commands = ["link set lo up"]
    for number, link in enumerate(links):
        name, addresses = str(link["ifname"]), link.get("addr_info", [])
        if name != "lo":
            if not addresses and name != ingress:
                continue  # a port of a bridge or the like: no rule of ours sees a packet there
            commands.append(f"link add {name} type veth peer name hafw-peer{number}")
            commands += [f"link set {end} addrgenmode none up" for end in (name, f"hafw-peer{number}")]
        commands += list(_address_commands(name, addresses))
    _batch(commands, "-force")
    _batch(routes, "-force")
    (found,) = json.loads(_ip("-json", "link", "show", "dev", ingress))
    return bytes.fromhex(str(found["address"]).replace(":", ""))


def _address_commands(name: str, addresses: list[dict[str, Any]]) -> Iterator[str]:
    for address in addresses:
        where, length = str(address.get("local")), address.get("prefixlen")
        if where not in ("127.0.0.1", "::1"):
            nodad = " nodad" if address.get("family") == "inet6" else ""
            yield f"address add {where}/{length} dev {name}{nodad}"


def _batch(commands: list[str], *options: str) -> None:
    """What the copy does not take (a route of another table's, a name of an old kernel) is left out."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".ip") as file:
        file.write("".join(f"{command}\n" for command in _with_families(commands)))
        file.flush()
        asyncio.run(process.run(("ip", *options, "-batch", file.name), timeout_s=_TOOL_S))


def _with_families(commands: list[str]) -> Iterator[str]:
    """A batch has one family; but `ip` tells it from the addresses, and only a default route has none."""
    for command in commands:
        if command.startswith("-6 route replace default"):
            yield command.removeprefix("-6 ").replace("default", "::/0", 1)
        else:
            yield command.removeprefix("-4 ").removeprefix("-6 ")


def _peer_of(links: list[dict[str, Any]], ingress: str) -> str:
    number = next(number for number, link in enumerate(links) if link.get("ifname") == ingress)
    return f"hafw-peer{number}"


def marking(ingress: str) -> str:
    """A table that has our frame traced, told by its sender: the copy's own interfaces report their
    multicast groups, and such a report may come first."""
    rule = f'iifname "{ingress}" ether saddr {SENDER.hex(":")} meta nftrace set 1'
    chain = f"chain begin {{ type filter hook prerouting priority -500; {rule}\n }}"
    return f"table inet hafw-trace {{ {chain}\n}}\n"


def watch(peer: str, frame: bytes) -> list[Event]:
    """Sends `frame` into the other end and reads what the kernel tells, until it is quiet."""
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as monitor,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as wire,
    ):
        monitor.bind((0, 0))
        monitor.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTRACE)
        try:
            wire.bind((peer, 0))
            wire.send(frame)
        except OSError as error:
            raise UnavailableError(
                f"cannot send into the copy of the interface: {error.strerror}"
            ) from error
        found: list[Event] = []
        while select.select([monitor], [], [], _QUIET_S if found else _FIRST_S)[0]:
            found += _events(monitor.recv(1 << 16))
    return found


def _events(batch: bytes) -> Iterator[Event]:
    for message_type, _, _, content in messages(batch):
        if message_type == _MSG_TRACE:
            family, body = of_generic(content)
            yield _event(family, dict(parse_attributes(body)))


def _event(family: int, attributes: Attributes) -> Event:
    verdict = dict(parse_attributes(attributes.get(_VERDICT, b"")))
    code = struct.unpack("!i", verdict[1])[0] if 1 in verdict else None
    policy = attributes.get(_POLICY)
    if policy is not None:
        (code,) = struct.unpack("!i", policy)
    handle = attributes.get(_HANDLE)
    return Event(
        kind=_TYPES.get(as_number(attributes.get(_TYPE)), "other"),
        family=FAMILIES.get(family, str(family)),
        table=as_text(attributes.get(_TABLE)),
        chain=as_text(attributes.get(_CHAIN)),
        handle=struct.unpack("!Q", handle)[0] if handle else None,
        verdict=_VERDICTS.get(code, str(code)) if code is not None else "continue",
        target=as_text(verdict.get(2)) or None,
    )
