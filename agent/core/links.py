# SPDX-License-Identifier: GPL-2.0-or-later
"""What the interfaces of this node show: a sync link without carrier, an interface that the pair file has
and this node has not, and one that this node has and the pair file has not. Pure.

Hard facts (conntrackd 1.4.7, tried with two links):
* It begins with the first link, also where that has no carrier, and looks again only when a link changes. It
  leaves one that is not running for any other that is, and does not return by itself when the first one
  has recovered. It also takes the one by which the peer's words come.
* `-s` names the link that it sends over.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.core.conditions import Condition, Finding
from agent.core.roles import Role
from agent.model.pair import Interface, IPInterface, Pair

NOT_A_WAY_IN = ("loopback", "dummy", "vrf")
"""Kinds of interfaces that no packet of others comes in by."""
STUCK_LOOKS = 3
"""So many answers in a row conntrackd, and systemd-networkd below a tunnel, may take to follow a link."""


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


@dataclass(frozen=True, slots=True)
class SendsOver:
    """What conntrackd sends over, by its last word; None when it has said nothing. `stuck`: how many of its
    answers in a row have named one that does not work, beside one that does."""

    link: str | None = None
    stuck: int = 0


def hear_sending(
    pair: Pair, node: str, links: tuple[Link, ...], before: SendsOver, named: str | None
) -> SendsOver:
    """`named`: the link in its newest answer."""
    used = next((one for one in _find_ways(pair) if one.link.name == named), None)
    others = (one for one in _find_ways(pair) if one is not used)
    stuck = (
        used is not None
        and used.find_break(links) is not None
        and any(one.why_silent(node, links) is None for one in others)
    )
    return SendsOver(named, before.stuck + 1 if stuck and before.link == named else int(stuck))


@dataclass(frozen=True, slots=True)
class _Way:
    """A sync link: `wire` has the cable, and `link` is what conntrackd sees, the tunnel over it where there
    is one, else the same."""

    wire: Interface
    link: Interface

    def find_break(self, links: tuple[Link, ...]) -> str | None:
        """What conntrackd leaves it for; None when it has no reason to. The wire first: it is the cause."""
        every = ((one.name, find_fault(one.name, links)) for one in self._interfaces)
        return next((f"{name} {fault}" for name, fault in every if fault is not None), None)

    def why_silent(self, node: str, links: tuple[Link, ...]) -> str | None:
        every = ((one.name, why_unusable(one, node, links)) for one in self._interfaces)
        return next((f"{name} {fault}" for name, fault in every if fault is not None), None)

    @property
    def _interfaces(self) -> tuple[Interface, ...]:
        return (self.wire,) if self.wire is self.link else (self.wire, self.link)


def _find_ways(pair: Pair) -> tuple[_Way, ...]:
    return tuple(map(_Way, pair.sync_interfaces, pair.replication_links))


_SILENT = SendsOver()


def judge_links(
    pair: Pair, node: str, role: Role, links: tuple[Link, ...], sending: SendsOver = _SILENT
) -> tuple[Finding, ...]:
    return (
        *_sync_links(pair, node, links, sending),
        _missing(pair, links),
        _unzoned(pair, links),
        _fault(pair, node, role, links),
    )


def can_send(pair: Pair, node: str, links: tuple[Link, ...], sending: SendsOver) -> bool:
    """Whether the link that conntrackd sends over works."""
    return _find_used(_find_ways(pair), links, sending).why_silent(node, links) is None


def why_unusable(interface: Interface, node: str, links: tuple[Link, ...]) -> str | None:
    """Why `node` cannot speak on an interface of the pair; None when it could."""
    fault = find_fault(interface.name, links)
    if fault is not None:
        return fault
    there = {address.ip for link in links if link.name == interface.name for address in link.addresses}
    lost = [str(address) for address in interface.own(node) if address.ip not in there]
    return f"has lost this node's {', '.join(lost)}" if lost else None


def _sync_links(
    pair: Pair, node: str, links: tuple[Link, ...], sending: SendsOver
) -> tuple[Finding, Finding]:
    """Of two the one that conntrackd does not use has a condition of its own: it could not take over, or had
    to be left."""
    ways = _find_ways(pair)
    used = _find_used(ways, links, sending)
    spare = next((one for one in ways if one is not used), None)
    fault = used.why_silent(node, links)
    spare_fault = spare.why_silent(node, links) if spare is not None else None
    spare_well = Condition.SPARE_LINK, True, "no sync link is down beside the one in use"
    if fault is None:
        well = Condition.SYNC_LINK, True, f"the sync link is up ({used.wire.name} has carrier)"
        text = f"one of two sync links is down ({spare_fault}); this node sends states over {used.wire.name}"
        return well, (Condition.SPARE_LINK, False, text) if spare_fault is not None else spare_well
    if spare_fault is not None:
        both = ", ".join(f"{one.why_silent(node, links)}" for one in ways)
        text = f"both sync links are down ({both}); states are not replicated"
    else:
        stays = (
            f": conntrackd stays with it beside {spare.wire.name}, which works" if spare is not None else ""
        )
        text = f"the sync link is down ({fault}); states are not replicated{stays}"
    return (Condition.SYNC_LINK, False, text), spare_well


def _find_used(ways: tuple[_Way, ...], links: tuple[Link, ...], sending: SendsOver) -> _Way:
    """What conntrackd says, or what it is about to say: it leaves one that is broken for one that is not,
    whatever the addresses are. That it does not is believed after a while."""
    named = next((one for one in ways if one.link.name == sending.link), ways[0])
    if sending.stuck >= STUCK_LOOKS or named.find_break(links) is None:
        return named
    return next((one for one in ways if one.find_break(links) is None), named)


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
