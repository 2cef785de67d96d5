# SPDX-License-Identifier: GPL-2.0-or-later
"""What the interfaces of this node show: a sync link without carrier, an interface that the pair file has
and this node has not, and one that this node has and the pair file has not. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.conditions import Condition, Finding
from agent.core.roles import Role
from agent.model.pair import Interface, IPInterface, Pair

NOT_A_WAY_IN = ("loopback", "dummy", "vrf")
"""Kinds of interfaces that no packet of others comes in by."""


@dataclass(frozen=True, slots=True)
class Link:
    """`kind` is the kernel's word for what is no card of its own (bridge, vlan, dummy ...), else empty."""

    name: str
    index: int
    kind: str
    up: bool
    carrier: bool
    addresses: tuple[IPInterface, ...] = ()


def find_fault(name: str, links: tuple[Link, ...]) -> str | None:
    """Why no packet goes through an interface; None when one could."""
    found = next((link for link in links if link.name == name), None)
    if found is None:
        return "does not exist on this node"
    if not found.up:
        return "is down"
    return None if found.carrier else "has no carrier"


def judge_links(pair: Pair, node: str, role: Role, links: tuple[Link, ...]) -> tuple[Finding, ...]:
    return (
        _sync_link(pair, node, links),
        _spare_link(pair, node, links),
        _missing(pair, links),
        _unzoned(pair, links),
        _fault(pair, node, role, links),
    )


def why_unusable(interface: Interface, node: str, links: tuple[Link, ...]) -> str | None:
    """Why `node` cannot speak on an interface of the pair; None when it could."""
    fault = find_fault(interface.name, links)
    if fault is not None:
        return fault
    there = {address.ip for link in links if link.name == interface.name for address in link.addresses}
    lost = [str(address) for address in interface.own(node) if address.ip not in there]
    return f"has lost this node's {', '.join(lost)}" if lost else None


def _sync_link(pair: Pair, node: str, links: tuple[Link, ...]) -> Finding:
    used = _used_sync_link(pair, links)
    fault = _why_silent(pair, used, node, links)
    if fault is None:
        return Condition.SYNC_LINK, True, f"the sync link is up ({used.name} has carrier)"
    if find_fault(used.name, links) is None or _spare_of(pair, used) is None:
        return Condition.SYNC_LINK, False, f"the sync link is down ({fault}); {_NOT_REPLICATED}"
    down = ", ".join(f"{one.name} {find_fault(one.name, links)}" for one in pair.sync_interfaces)
    return Condition.SYNC_LINK, False, f"both sync links are down ({down}); {_NOT_REPLICATED}"


def _why_silent(pair: Pair, wire: Interface, node: str, links: tuple[Link, ...]) -> str | None:
    """Of a sync link, or of the tunnel over it."""
    tunnels = (one.inside for one in pair.tunnels if one.wire is wire)
    every = ((one.name, why_unusable(one, node, links)) for one in (wire, *tunnels))
    return next((f"{name} {fault}" for name, fault in every if fault is not None), None)


_NOT_REPLICATED = "states are not replicated"


def _spare_link(pair: Pair, node: str, links: tuple[Link, ...]) -> Finding:
    """Of two sync links the one that conntrackd does not use: it could not take over, or had to be left."""
    used = _used_sync_link(pair, links)
    spare = _spare_of(pair, used)
    fault = _why_silent(pair, spare, node, links) if spare is not None else None
    if fault is None or find_fault(used.name, links) is not None:
        return Condition.SPARE_LINK, True, "no sync link is down beside the one in use"
    text = f"one of two sync links is down ({fault}); this node sends states over {used.name}"
    return Condition.SPARE_LINK, False, text


def _used_sync_link(pair: Pair, links: tuple[Link, ...]) -> Interface:
    """As conntrackd chooses: the first one with a carrier, whatever its addresses are."""
    every = pair.sync_interfaces
    return next((one for one in every if find_fault(one.name, links) is None), every[0])


def _spare_of(pair: Pair, used: Interface) -> Interface | None:
    return next((one for one in pair.sync_interfaces if one is not used), None)


def _missing(pair: Pair, links: tuple[Link, ...]) -> Finding:
    known = {link.name for link in links}
    missing = [interface.name for interface in pair.every_interface if interface.name not in known]
    if not missing:
        return Condition.MISSING_INTERFACE, True, "all interfaces of the pair file exist on this node"
    exist = ", ".join(sorted(known))
    text = f"{_names(missing)} of the pair file {_do(missing)} not exist on this node, which has {exist}"
    return Condition.MISSING_INTERFACE, False, text


def _unzoned(pair: Pair, links: tuple[Link, ...]) -> Finding:
    unzoned = list(_find_unzoned({interface.name for interface in pair.every_interface}, links))
    if not unzoned:
        return Condition.UNZONED_INTERFACE, True, "every interface that forwards is in a zone"
    text = (
        f"{', '.join(unzoned)}: in no zone of the pair file; nothing that arrives there is forwarded, and "
        "only management can reach this node there"
    )
    return Condition.UNZONED_INTERFACE, False, text


def _find_unzoned(known: set[str], links: tuple[Link, ...]) -> Iterator[str]:
    """Up, with a carrier, and with an address that a host could send packets to. A container's bridge
    counts when a container is on it: before that it has no carrier."""
    for link in links:
        addresses = [str(address) for address in link.addresses if not address.ip.is_link_local]
        if link.name in known or link.kind in NOT_A_WAY_IN or not addresses:
            continue
        if link.up and link.carrier:
            yield f"{link.name} ({', '.join(addresses)})"


def _fault(pair: Pair, node: str, role: Role, links: tuple[Link, ...]) -> Finding:
    if role is not Role.FAULT:
        return Condition.FAULT, True, "keepalived is not in fault"
    reasons = [
        f"{interface.name} {fault}"
        for interface in pair.data_interfaces
        if interface.vips and (fault := why_unusable(interface, node, links)) is not None
    ]
    why = "; ".join(reasons) or "all links are up; keepalived's log says why (journalctl -u keepalived)"
    return Condition.FAULT, False, f"keepalived is in fault, so this node cannot be primary: {why}"


def _names(names: list[str]) -> str:
    return ", ".join(names)


def _do(names: list[str]) -> str:
    return "does" if len(names) == 1 else "do"
