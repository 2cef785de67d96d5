# SPDX-License-Identifier: GPL-2.0-or-later
"""A client, one firewall, a server and the peer on the sync link, joined as the real ones are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.adapters.nftables import Nftables
from agent.config import loader
from agent.model.pair import Pair
from agent.rules.compile import compile_pair
from tests.netns.namespaces import Namespace, join, start_namespaces

PAIR_FILE = """
version: 1
pair: G1
nodes: {fw-1: {priority: 150}, fw-2: {priority: 140}}
interfaces:
  eth0:
    zone: server
    vip: [192.168.0.100/24, "fd00:0:0:a::100/64"]
    vrid: 62
    addresses:
      fw-1: [192.168.0.1/24, "fd00:0:0:a::1/64"]
      fw-2: [192.168.0.2/24, "fd00:0:0:a::2/64"]
  eth1:
    zone: client
    vip: [192.168.2.100/24, "fd00:0:0:c::100/64"]
    vrid: 61
    addresses:
      fw-1: [192.168.2.1/24, "fd00:0:0:c::1/64"]
      fw-2: [192.168.2.2/24, "fd00:0:0:c::2/64"]
  eth2: {zone: sync, addresses: {fw-1: 192.168.1.1/24, fw-2: 192.168.1.2/24}}
policy:
  - {from: client, to: server, allow: [https, ftp, icmp, {udp: 5353}, {tcp: 8000-8010}]}
nat:
  - {from: client, to: server, source: vip}
management: {from: [client], services: [ssh]}
"""


@dataclass(frozen=True, slots=True)
class Firewall:
    """`rules` is the real adapter, bound to the firewall's namespace. No table is loaded yet."""

    client: Namespace
    node: Namespace
    server: Namespace
    peer: Namespace
    pair: Pair
    rules: Nftables

    def count(self, counter: str) -> int:
        return next(each.packets for each in self.rules.read().counters if each.name == counter)

    def nft(self, command: str) -> str:
        return self.node.run("nft", *command.split())


@contextmanager
def start_firewall() -> Iterator[Firewall]:
    """The firewall holds the virtual addresses, as it does from the moment of promotion on."""
    pair = loader.parse(PAIR_FILE)
    with start_namespaces("client", "fw-1", "server", "fw-2") as (client, node, server, peer):
        join(node, "eth0", server, "eth0")
        join(node, "eth1", client, "eth0")
        join(node, "eth2", peer, "eth2")
        for interface in pair.interfaces:
            for address in (*interface.own("fw-1"), *interface.vips):
                node.ip(f"address add {address} dev {interface.name}{nodad(address.version)}")
        for end, net in ((client, ("192.168.2", "fd00:0:0:c")), (server, ("192.168.0", "fd00:0:0:a"))):
            end.ip(f"address add {net[0]}.10/24 dev eth0")
            end.ip(f"address add {net[1]}::10/64 dev eth0 nodad")
        peer.ip("address add 192.168.1.2/24 dev eth2")
        peer.ip("address add fd00:0:0:b::2/64 dev eth2 nodad")
        # the server needs no route to the clients: they come from the virtual address
        client.ip("route add default via 192.168.2.100")
        client.ip("-6 route add default via fd00:0:0:c::100")
        node.sysctl("net.ipv4.ip_forward", 1)
        node.sysctl("net.ipv6.conf.all.forwarding", 1)
        node.sysctl("net.netfilter.nf_conntrack_tcp_loose", 0)
        node.sysctl("net.netfilter.nf_conntrack_events", 1)  # as rendered: every state reports
        with node.entered():
            rules = Nftables(compile_pair(pair))
        yield Firewall(client, node, server, peer, pair, rules)


def nodad(version: int) -> str:
    return " nodad" if version == 6 else ""
