# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold between the values of a pair file, and what names may look like."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Set
from itertools import combinations

from agent.config.reader import Problems, Wanted
from agent.config.source_tree import joined
from agent.model.pair import (
    SELF_ZONE,
    SYNC_ZONE,
    Action,
    Interface,
    IPAddress,
    IPInterface,
    IPNetwork,
    Pair,
    PortForward,
    PortRange,
    Protocol,
    SourceNat,
)
from agent.model.services import BFD_PORTS

MAX_SYNC_LINKS = 2
PAIR_NAME: Wanted = (
    re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII),
    "a name for a pair; write 1 to 32 letters, digits, - or _",
)
NODE_NAME: Wanted = (
    re.compile(
        r"(?=.{1,64}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
    ),
    "a host name; write letters, digits and -, as `hostname` prints it on that node",
)
INTERFACE_NAME: Wanted = (
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", re.ASCII),
    "a usable interface name; the kernel takes at most 15 bytes, and keepalived, conntrackd and nft"
    " agree only on letters, digits, `.`, `_` and `-`, the first a letter or a digit; rename the interface",
)
ZONE_NAME: Wanted = (
    re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII),
    "a zone name; write a small letter, then small letters, digits or -, at most 32",
)
# sysctl's own words; an interface with such a name would be taken for all of them
_RESERVED_INTERFACES = ("all", "default", "lo")
# VRRP packets with many IPv6 addresses no longer fit into one Ethernet frame
_MAX_VIPS = 64


def check(pair: Pair, problems: Problems, complete: bool) -> None:
    """Adds what does not fit together. `complete` is false when interfaces were refused before."""
    _check_nodes(pair, problems)
    for interface in pair.interfaces:
        _check_interface(pair, interface, problems)
    _check_shape(pair, problems, complete)
    _check_vrids(pair, problems)
    _check_overlaps(pair, problems)
    _check_repeats(pair, problems)
    _check_given_away(pair, problems)
    _check_channel(pair, problems)
    _check_tunnels(pair, problems)


def _check_nodes(pair: Pair, problems: Problems) -> None:
    for first, second in combinations(pair.nodes, 2):
        if first.priority and first.priority == second.priority:
            message = (
                f"has the same priority as {first.name}; give the one that should win ties the higher one"
            )
            problems.add(joined("nodes", second.name) + ".priority", message)
        if first.name.lower() == second.name.lower():
            problems.add(
                joined("nodes", second.name), f"differs from {first.name} in capitals only; rename one"
            )


def _check_shape(pair: Pair, problems: Problems, complete: bool) -> None:
    sync = pair.in_zone(SYNC_ZONE)
    for extra in sync[MAX_SYNC_LINKS:]:
        names = " and ".join(one.name for one in sync[:MAX_SYNC_LINKS])
        message = f"{names} are already in zone sync; a pair has two sync links at the most"
        problems.add(joined("interfaces", extra.name) + ".zone", message)
    if complete and pair.interfaces and not sync:
        problems.add("interfaces", "no interface is in zone sync; the nodes need a link of their own")
    if complete and not pair.data_interfaces:
        problems.add(
            "interfaces", "only the sync link is here; write the interfaces that are to be protected"
        )


def _check_interface(pair: Pair, interface: Interface, problems: Problems) -> None:
    path = joined("interfaces", interface.name)
    if interface.zone == SELF_ZONE:
        problems.add(f"{path}.zone", "self stands for the firewalls themselves; choose another name")
    if interface.zone == SYNC_ZONE and interface.no_source_check:
        problems.add(f"{path}.no_source_check", "nothing is forwarded from the sync link; remove it")
    if interface.name in _RESERVED_INTERFACES:
        problems.add(path, f"{interface.name} is not an interface of the pair; remove it")
    has_vip, has_vrid = problems.is_written(path + ".vip"), problems.is_written(path + ".vrid")
    if interface.zone == SYNC_ZONE:
        for key, there in (("vip", has_vip), ("vrid", has_vrid)):
            if there:
                problems.add(f"{path}.{key}", f"the sync link has no {key}; remove it")
    elif not has_vip:
        problems.add(path, "vip is missing; the virtual address moves between the nodes")
    elif not has_vrid:
        problems.add(path, "vrid is missing; every vip needs a VRRP id, 1 to 255")
    _check_same_networks(pair, interface, problems)
    _check_vips(interface, problems)


def _check_same_networks(pair: Pair, interface: Interface, problems: Problems) -> None:
    own = [(node.name, interface.own(node.name)) for node in pair.nodes]
    if len(own) != 2 or not all(addresses for _, addresses in own):
        return
    for (name, addresses), (other, others) in (own, own[::-1]):
        networks = {address.network for address in others}
        for address in addresses:
            if address.network not in networks:
                path = joined(joined("interfaces", interface.name) + ".addresses", name)
                message = (
                    f"{address} is in {address.network}, where {other} has no address; both need one there"
                )
                problems.add(path, message)


def _check_vips(interface: Interface, problems: Problems) -> None:
    path = joined("interfaces", interface.name) + ".vip"
    own = [address for _, addresses in interface.addresses for address in addresses]
    for vip in interface.vips if own else ():
        if not any(lies_in(vip.network, address.network) for address in own):
            networks = ", ".join(dict.fromkeys(str(address.network) for address in own))
            problems.add(
                path, f"{vip} is outside the networks of this interface; write an address in {networks}"
            )
        elif any(_is_edge(vip, address) for address in own):
            problems.add(
                path, f"{vip.ip} is the first or last address of its network, which no host can have"
            )
    for version in (4, 6):
        if sum(vip.version == version for vip in interface.vips) > _MAX_VIPS:
            problems.add(
                path, f"more than {_MAX_VIPS} IPv{version} addresses; they do not fit into a VRRP packet"
            )


def lies_in(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Is every address of `inner` in `outer`? Never across IPv4 and IPv6."""
    # subnet_of wants both of one version, which the type checker cannot see
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _is_edge(vip: IPInterface, own: IPInterface) -> bool:
    network = own.network
    if vip.version != network.version or network.prefixlen >= network.max_prefixlen - 1:
        return False
    edges = (
        (network.network_address, network.broadcast_address)
        if vip.version == 4
        else (network.network_address,)
    )
    return vip.ip in edges


def _check_vrids(pair: Pair, problems: Problems) -> None:
    seen: dict[int, str] = {}
    for interface in pair.interfaces:
        if interface.vrid is None:
            continue
        if interface.vrid in seen:
            message = (
                f"{seen[interface.vrid]} already has VRRP id {interface.vrid}; give each interface its own"
            )
            problems.add(joined("interfaces", interface.name) + ".vrid", message)
        seen.setdefault(interface.vrid, interface.name)


def _check_overlaps(pair: Pair, problems: Problems) -> None:
    for first, second in combinations(pair.interfaces, 2):
        clash = next(((a, b) for a in first.networks for b in second.networks if a.overlaps(b)), None)
        if clash:
            message = (
                f"{clash[1]} overlaps {clash[0]} of {first.name}; each interface needs networks of its own"
            )
            problems.add(joined("interfaces", second.name), message)


def _check_repeats(pair: Pair, problems: Problems) -> None:
    seen: dict[object, str] = {}
    for path, address in _every_address(pair):
        if address.ip in seen:
            problems.add(
                path, f"{address.ip} is also the address at {seen[address.ip]}; each address is there once"
            )
        seen.setdefault(address.ip, path)


def _every_address(pair: Pair) -> Iterator[tuple[str, IPInterface]]:
    for interface in pair.interfaces:
        path = joined("interfaces", interface.name)
        for node, addresses in interface.addresses:
            yield from ((joined(f"{path}.addresses", node), address) for address in addresses)
    for interface, vip in pair.vips():
        yield joined("interfaces", interface.name) + ".vip", vip


def _check_channel(pair: Pair, problems: Problems) -> None:
    """Where the agents and the tunnels listen, the rules let in the other node alone, before management and
    policy. A range of ports that has such a one in it loses one of many, and is left as it is."""
    reason = "the port at which the agents listen for each other, and for nobody else"
    _check_listener(
        pair, Protocol.TCP, pair.sync.channel_port, f"{reason}; write another sync.channel_port", problems
    )
    for tunnel in pair.tunnels:
        reason = f"the port of the tunnel over {tunnel.wire.name}; write another sync.wireguard_port"
        _check_listener(pair, Protocol.UDP, tunnel.port, reason, problems)


def _check_listener(pair: Pair, protocol: Protocol, port: int, reason: str, problems: Problems) -> None:
    to_self = (rule for rule in pair.policy if rule.to_zone == SELF_ZONE and rule.action is Action.ACCEPT)
    asked = (
        ("management.services", pair.management.services),
        *((one.place.path, one.services) for one in to_self),
    )
    for path, services in asked:
        if any(
            service.protocol is protocol and PortRange(port, port) in service.ports for service in services
        ):
            problems.add(path, f"{protocol.value}/{port} is {reason}")
            return


def _check_tunnels(pair: Pair, problems: Problems) -> None:
    for tunnel in pair.tunnels:
        if tunnel.port in (pair.sync.port, *BFD_PORTS):
            message = (
                f"udp/{tunnel.port} would be that of the tunnel over {tunnel.wire.name}, and is that of"
            )
            other = "the replication in it" if tunnel.port == pair.sync.port else "BFD"
            problems.add("sync.wireguard_port", f"{message} {other}; write another one")
        for interface in pair.interfaces:
            if interface.name == tunnel.inside.name:
                message = f"{interface.name} is the tunnel over {tunnel.wire.name}; rename this interface"
                problems.add(joined("interfaces", interface.name), message)
            for network in interface.networks:
                if any(network.overlaps(one) for one in tunnel.inside.networks):
                    message = f"{network} has the addresses of the tunnel over {tunnel.wire.name}"
                    problems.add(
                        joined("interfaces", interface.name), f"{message}; write others, or rename the pair"
                    )


def _check_given_away(pair: Pair, problems: Problems) -> None:
    """Translations may not take the last virtual address of an interface from the firewalls themselves."""
    gone = pair.given_away(pair.translations)
    for interface in pair.data_interfaces:
        for version in (4, 6):
            vips = {vip.ip for vip in interface.vips if vip.version == version and not vip.ip.is_link_local}
            if not vips or not vips <= gone:
                continue
            one, taken = _taker_of_the_last(pair, vips)
            if not problems.are_in(one.place.path):
                message = (
                    f"takes {min(taken)} whole, the only IPv{version} vip that {interface.name} has left"
                    " for the firewalls themselves (management, rules to self, ping)"
                )
                problems.add(one.place.path, f"{message}; name services, or give {interface.name} one more")


def _taker_of_the_last(
    pair: Pair, vips: Set[IPAddress]
) -> tuple[PortForward | SourceNat, frozenset[IPAddress]]:
    """The translation before which there is something left of `vips`, and that."""
    entries = pair.translations
    number = bisect_left(
        range(len(entries)), True, key=lambda number: vips <= pair.given_away(entries[: number + 1])
    )
    return entries[number], frozenset(vips - pair.given_away(entries[:number]))
