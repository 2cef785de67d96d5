# SPDX-License-Identifier: GPL-2.0-or-later
"""What the network of this host is at this moment, asked of `ip`.

Hard facts (iproute2 6.1 and 6.15):
* `ip -json` prints nothing at all, or `[{}]`, where there is nothing to print.
* The hops of a multipath route are in `nexthops`; a gateway of the other family in `via`.
* A route made by hand has the protocol `boot`, which is not printed.
* Table `main` is not named, and `table all` has what the kernel made for itself as types of their own.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from agent.adapters.process import run, use_pidfd_children
from agent.errors import ToolError
from agent.model.pair import IPInterface, IPNetwork
from agent.rules.connections import Ways

_IP = "/usr/sbin/ip"
_LIMIT_S = 10.0
_EVERYWHERE = {"-4": "0.0.0.0/0", "-6": "::/0"}
_WRITTEN_BY_PEOPLE = ("boot", "static", "dhcp", "ra")
"""Protocols of routes that neither the kernel nor a routing daemon makes again."""


@dataclass(frozen=True, slots=True)
class HostLink:
    name: str
    is_up: bool
    addresses: tuple[IPInterface, ...]
    """All but link-local ones."""


@dataclass(frozen=True, slots=True)
class HostRoute:
    interface: str
    destination: str
    """A network, or `default`."""
    gateway: str | None
    table: str | None

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        table = f" table {self.table}" if self.table else ""
        return f"{self.destination}{via} dev {self.interface}{table}"


def read_links() -> tuple[HostLink, ...]:
    """Raises ToolError."""
    return tuple(_link(one) for one in _ask("address", "show") if "ifname" in one)


def read_routes() -> tuple[HostRoute, ...]:
    """Those that an administrator has configured. Raises ToolError."""
    every = (*_ask("-4", "route", "show", "table", "all"), *_ask("-6", "route", "show", "table", "all"))
    return tuple(
        route
        for one in every
        if one.get("type", "unicast") == "unicast" and one.get("protocol", "boot") in _WRITTEN_BY_PEOPLE
        for route in _routes(one)
    )


def read_ways() -> Ways:
    """Where this node's packets go, from its routes and addresses. Raises ToolError."""
    routes: list[tuple[IPNetwork, str]] = []
    for family, everywhere in _EVERYWHERE.items():
        for one in _ask(family, "route", "show"):
            if "dev" in one:
                target = one.get("dst", "default")
                network = ip_network(everywhere if target == "default" else target, strict=False)
                routes.append((network, one["dev"]))
    own = {
        ip_address(info[kind])
        for one in _ask("address", "show")
        for info in one.get("addr_info", ())
        for kind in ("local", "broadcast")
        if kind in info
    }
    return Ways(tuple(sorted(routes, key=lambda one: -one[0].prefixlen)), frozenset(own))


def _ask(*words: str) -> list[dict[str, Any]]:
    argv = (_IP, "-json", *words)
    use_pidfd_children()
    finished = asyncio.run(run(argv, timeout_s=_LIMIT_S))
    if finished.exit_status != 0:
        raise ToolError(argv, f"{' '.join(argv)} failed: {finished.stderr.strip()}")
    try:
        found = json.loads(finished.stdout or "[]")
    except ValueError as error:
        raise ToolError(argv, f"{' '.join(argv)} printed no JSON") from error
    return [one for one in found if isinstance(one, dict)]


def _link(one: dict[str, Any]) -> HostLink:
    addresses = tuple(
        ip_interface(f"{info['local']}/{info['prefixlen']}")
        for info in one.get("addr_info", ())
        if info.get("scope") != "link" and "local" in info
    )
    return HostLink(one["ifname"], "UP" in one.get("flags", ()), addresses)


def _routes(one: dict[str, Any]) -> Iterator[HostRoute]:
    for hop in one.get("nexthops") or (one,):
        gateway = hop.get("gateway") or hop.get("via", {}).get("host")
        if "dev" in hop:
            yield HostRoute(hop["dev"], one.get("dst", "default"), gateway, one.get("table"))
