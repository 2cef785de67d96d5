# SPDX-License-Identifier: GPL-2.0-or-later
"""Replication and VRRP leave no states in the table that they keep alike, in either role."""

import socket
from collections.abc import Iterator

import pytest

from agent.core.roles import RuleSet
from tests.netns.firewall import Firewall, nodad, start_firewall
from tests.netns.namespaces import Namespace
from tests.netns.packets import family_of, make_socket, receive, udp

pytestmark = pytest.mark.netns

SYNC, SYNC_PEER, PORT = "192.168.1.1", "192.168.1.2", 3780
VRRP = 112
OWN = {4: "192.168.2.1", 6: "fd00:0:0:c::1"}
PEER = {4: "192.168.2.2", 6: "fd00:0:0:c::2"}
LONGER_THAN_A_FRAME = 4000


@pytest.fixture(params=list(RuleSet))
def firewall(request: pytest.FixtureRequest) -> Iterator[Firewall]:
    with start_firewall() as started:
        started.rules.load(request.param)
        yield started


def entries(node: Namespace, version: int = 4) -> str:
    return node.run("conntrack", "-L", "-f", f"ipv{version}")


@pytest.mark.parametrize("size", [100, LONGER_THAN_A_FRAME])
def test_replication_arrives_and_leaves(firewall: Firewall, size: int) -> None:
    with udp(firewall.node, SYNC, PORT) as node, udp(firewall.peer, SYNC_PEER, PORT) as peer:
        peer.sendto(b"s" * size, (SYNC, PORT))
        assert receive(node) == b"s" * size
        node.sendto(b"s" * size, (SYNC_PEER, PORT))
        assert receive(peer) == b"s" * size
    assert f"dport={PORT}" not in entries(firewall.node)


def test_what_else_the_sync_link_carries_is_tracked(firewall: Firewall) -> None:
    with udp(firewall.node, SYNC, 4000) as node, udp(firewall.peer, SYNC_PEER, 123) as peer:
        node.sendto(b"what time is it?", (SYNC_PEER, 123))
        question = receive(peer)
        assert question is not None
        peer.sendto(b"late", (SYNC, 4000))
        assert receive(node) == b"late"
    assert "dport=123" in entries(firewall.node)


@pytest.mark.parametrize("version", [4, 6])
def test_vrrp_arrives_and_leaves(firewall: Firewall, version: int) -> None:
    firewall.client.ip(f"address add {PEER[version]}/{24 if version == 4 else 64} dev eth0{nodad(version)}")
    with _raw(firewall.node, OWN[version]) as node, _raw(firewall.client, PEER[version]) as peer:
        peer.sendto(b"advert", (OWN[version], 0))
        assert (receive(node, 10.0) or b"").endswith(b"advert")
        node.sendto(b"advert", (PEER[version], 0))
        assert (receive(peer, 10.0) or b"").endswith(b"advert")
    assert PEER[version] not in entries(firewall.node, version)


def _raw(namespace: Namespace, address: str) -> socket.socket:
    raw = make_socket(namespace, family_of(address), socket.SOCK_RAW, VRRP)
    raw.bind((address, 0))
    if raw.family == socket.AF_INET:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
    else:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
    return raw
