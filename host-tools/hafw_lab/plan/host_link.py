# SPDX-License-Identifier: GPL-2.0-or-later
"""The node that is this machine itself: its links, and whether the machine has room for them. Pure.

Its part of the lab is one veth a link, between the segment's bridge and the network from which the lab was
started. Hard facts
* A veth is gone when either end's network namespace is: the kernel clears away what a killed lab leaves.
* Neither networkd nor NetworkManager takes hold of a veth of these names by itself.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_interface, ip_network

from hafw_lab.errors import LabError
from hafw_lab.model.topology import IPNetwork, Topology
from hafw_lab.plan.host_network import require_host
from hafw_lab.plan.values import NodePlan

_EVERYTHING = 1
"""Up to this length of its prefix a route is no use of a network: a tunnel may divide its default route."""


def with_host(topology: Topology, host: str | None) -> Topology:
    """The topology in which this machine is the node `host`: its links have names that are free beside the
    machine's own. Raises LabError."""
    if host is None:
        return topology
    spec = require_host(topology, host)
    if any(route.network.prefixlen == 0 for route in spec.routes):
        text = f"this machine cannot be {host}, whose default route would lead into the lab"
        raise LabError(text, "choose a node without one")
    links = tuple(replace(link, name=link_name(link.segment)) for link in spec.links)
    nodes = tuple(replace(node, links=links) if node is spec else node for node in topology.nodes)
    return replace(topology, nodes=nodes)


def link_name(segment: str) -> str:
    """At most 15 bytes, as the kernel wants it."""
    name = f"hafw-{segment}"
    return name if len(name) <= 15 else "hafw-" + hashlib.sha256(segment.encode()).hexdigest()[:10]


def describe_change(plan: NodePlan) -> str:
    """What plugging this machine in changes on it, in words."""
    links = ", ".join(cable.name for cable in plan.cables)
    networks = ", ".join(str(network) for network in _networks(plan))
    return f"{plan.name} is this machine: until the lab ends it has {links} and reaches {networks} there"


def require_room(plan: NodePlan, addresses: str, routes: str) -> None:
    """Raises LabError if this machine has a link of such a name, or uses a network that would be the lab's.
    `addresses` and `routes` are what `ip -json` says of it."""
    hosts = json.loads(addresses)
    taken = {cable.name for cable in plan.cables} & {link["ifname"] for link in hosts}
    if taken:
        text = f"this machine has a link {min(taken)} already"
        raise LabError(text, f"it can be {plan.name} of one lab at a time; hafw-lab down ends that")
    used = [*_used_by_addresses(hosts), *_used_by_routes(json.loads(routes))]
    for network in _networks(plan):
        for other, where in used:
            if network.overlaps(other):
                text = f"this machine cannot be {plan.name}: it uses {network} already ({where})"
                raise LabError(text, "leave --host out, or give the lab other addresses with --topology")


def _networks(plan: NodePlan) -> Iterator[IPNetwork]:
    """What will be reached through the lab."""
    for line in plan.network.splitlines():
        match line.split():
            case ["addr", "add", address, *_]:
                yield ip_interface(address).network
            case ["route", "add", network, *_]:
                yield ip_network(network)


def _used_by_addresses(links: list[dict[str, object]]) -> Iterator[tuple[IPNetwork, str]]:
    for link in links:
        found = link.get("addr_info", [])
        assert isinstance(found, list)
        for address in found:
            if "local" in address:
                text = f"{address['local']}/{address['prefixlen']}"
                yield ip_interface(text).network, f"{text} on {link['ifname']}"


def _used_by_routes(routes: list[dict[str, object]]) -> Iterator[tuple[IPNetwork, str]]:
    for route in routes:
        network = ip_network("0.0.0.0/0" if route["dst"] == "default" else str(route["dst"]))
        if network.prefixlen > _EVERYTHING:
            yield network, f"a route to {network}"
