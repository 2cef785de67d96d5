# SPDX-License-Identifier: GPL-2.0-or-later
"""Topology and options -> the pair file of the lab's firewalls. Pure."""

import yaml

from hafw_lab.errors import LabError
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import IPInterface, Segment, Topology

SYNC_ZONE = "sync"
PAIR_NAME = "G1"
ALLOWED: tuple[object, ...] = ("ssh", "http", "https", "ftp", "icmp", {"udp": 5353})


def compose(topology: Topology, options: LabOptions) -> str:
    """Raises LabError when the topology is no pair."""
    if len(topology.firewalls) != 2:
        raise LabError(f"a pair has two firewalls, this topology has {len(topology.firewalls)}")
    data = {
        "version": 1,
        "pair": PAIR_NAME,
        "nodes": {node.name: {"priority": node.priority} for node in topology.firewalls},
        "interfaces": _interfaces(topology),
        "failover": {"advert_interval": f"{options.advert_interval_ms}ms", "preempt": options.preempt},
        "sync": {"mode": options.sync.value},
        "policy": [
            {"from": "client", "to": "server", "allow": list(ALLOWED)},
            *(dict(entry) for entry in options.policy),
        ],
    }
    if options.nat:
        data["nat"] = [{"from": "client", "to": "server", "source": "vip"}]
    text: str = yaml.safe_dump(data, sort_keys=False, width=110)
    return "# Made by hafw-lab from its topology.\n" + text


def _interfaces(topology: Topology) -> dict[str, object]:
    found: dict[str, object] = {}
    first = topology.firewalls[0]
    for link in first.links:
        segment = topology.segment(link.segment)
        own = {}
        for firewall in topology.firewalls:
            other = firewall.link(link.name)
            if other is None or other.segment != link.segment:
                raise LabError(f"{firewall.name} and {first.name} must have {link.name} on the same segment")
            own[firewall.name] = _texts(other.addresses)
        found[link.name] = _interface(segment, own)
    return found


def _interface(segment: Segment, own: dict[str, object]) -> dict[str, object]:
    entry: dict[str, object] = {"zone": segment.zone}
    if segment.vips:
        entry |= {"vip": _texts(segment.vips), "vrid": segment.vrid}
    return entry | {"addresses": own}


def _texts(addresses: tuple[IPInterface, ...]) -> object:
    texts = [str(address) for address in addresses]
    return texts[0] if len(texts) == 1 else texts
