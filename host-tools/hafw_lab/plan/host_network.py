# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's bridges as lasting configuration of a real machine: systemd-networkd's files. Pure.

For users who run the machines with qemu or libvirt on the host's own bridges instead of in a lab: br0
carries the host's address when the server is the host itself, br1 and br2 carry none.

Hard facts
* A bridge takes the lowest of its ports' hardware addresses unless it is given one.
* With IGMP snooping on and a querier near, conntrackd's multicast is not forwarded; forwarding delay and STP
  hold a new port silent for seconds. All three are off, as in the lab.
* A bridge without ports has no carrier, and networkd would wait for one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from hafw_lab.errors import LabError
from hafw_lab.model.topology import NodeKind, NodeSpec, Segment, Topology, compute_mac

DIRECTORY = PurePosixPath("/etc/systemd/network")
HELPER = PurePosixPath("/etc/qemu/bridge.conf")


@dataclass(frozen=True, slots=True)
class HostFile:
    path: PurePosixPath
    text: str


def plan_host(topology: Topology, host: str | None, *, server_route: bool) -> tuple[HostFile, ...]:
    """The files for all segments; `host` is the node that this machine itself is. Raises LabError."""
    spec = None if host is None else require_host(topology, host)
    files = []
    for segment in topology.segments:
        files.append(HostFile(DIRECTORY / f"50-hafw-{segment.name}.netdev", _netdev(segment)))
        lines = "\n".join((*_network(segment, topology, spec, server_route), ""))
        files.append(HostFile(DIRECTORY / f"50-hafw-{segment.name}.network", lines))
    allowed = "".join(f"allow {segment.name}\n" for segment in topology.segments)
    return (*files, HostFile(HELPER, allowed))


def require_host(topology: Topology, name: str) -> NodeSpec:
    """A node that the machine itself can be. Raises LabError."""
    spec = topology.node(name)
    if spec is None or spec.kind is not NodeKind.HOST:
        known = ", ".join(node.name for node in topology.nodes if node.kind is NodeKind.HOST)
        raise LabError(f"this machine cannot be {name!r} of the topology", f"it can be one of {known}")
    return spec


def _netdev(segment: Segment) -> str:
    return (
        "[NetDev]\n"
        f"Name={segment.name}\n"
        "Kind=bridge\n"
        f"MACAddress={compute_mac('fabric', segment.name)}\n"
        "\n"
        "[Bridge]\n"
        "STP=no\n"
        "ForwardDelaySec=0\n"
        "MulticastSnooping=no\n"
    )


def _network(
    segment: Segment, topology: Topology, spec: NodeSpec | None, server_route: bool
) -> Iterator[str]:
    yield from ("[Match]", f"Name={segment.name}", "", "[Link]", "RequiredForOnline=no", "", "[Network]")
    yield from ("LinkLocalAddressing=no", "IPv6AcceptRA=no", "ConfigureWithoutCarrier=yes")
    link = next((one for one in spec.links if one.segment == segment.name), None) if spec else None
    if spec is None or link is None:
        return
    for address in link.addresses:
        yield f"Address={address}"
    routes = spec.routes
    if server_route:
        routes += topology.routes_to_clients(segment)
    for route in routes:
        yield from ("", "[Route]", f"Destination={route.network}", f"Gateway={route.via}")
