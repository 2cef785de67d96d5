# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rendered sysctls change, by packets. Each test first shows that the kernel left alone does it."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.config.loader import load
from agent.render import sysctl
from tests.checkout import GOLDEN
from tests.netns.namespaces import Namespace, join, start_namespaces
from tests.netns.packets import checksum, make_socket, receive

pytestmark = pytest.mark.netns

PAIR = load(GOLDEN / "render" / "pair" / "hafw.yaml")
AS_IT_IS, AS_RENDERED = "as the kernel is", "as rendered"
BEHIND = "10.9.0.1"
REDIRECT, ECHO, SOURCE_ROUTE, ADVERTISEMENT = 5, 8, 131, 134
ETH_P_IPV6 = 0x86DD

settled = pytest.mark.parametrize("how", [AS_IT_IS, AS_RENDERED])


@contextmanager
def start_router(how: str) -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """A client, a firewall without rules, and a server. What is BEHIND a gateway is on the client's own
    network, where the firewall is not needed."""
    with start_namespaces("client", "fw-1", "server") as (client, node, server):
        join(node, "eth0", server, "eth0")
        join(node, "eth1", client, "eth0")
        node.ip("link add eth2 type veth peer name nobody")
        node.sysctl("net.ipv4.ip_forward", 1)
        if how == AS_RENDERED:
            with node.entered():
                for setting in sysctl.settings(PAIR):
                    Path("/proc/sys", setting.key).write_text(setting.value)
        node.ip("address add 192.168.0.1/24 dev eth0")
        node.ip("address add 192.168.2.1/24 dev eth1")
        server.ip("address add 192.168.0.10/24 dev eth0")
        server.ip("route add default via 192.168.0.1")
        client.ip("address add 192.168.2.10/24 dev eth0")
        client.ip("route add default via 192.168.2.1")
        node.ip(f"route add {BEHIND}/32 via 192.168.2.77")
        node.ip("neighbor add 192.168.2.77 dev eth1 lladdr 02:00:00:00:00:77")
        yield client, node, server


def echo(source: str, target: str, options: bytes = b"") -> bytes:
    """A whole packet: a request, with IP options."""
    body = struct.pack("!BBHHH", ECHO, 0, 0, 77, 1)
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    first = 0x40 | (20 + len(options)) // 4
    length = 20 + len(options) + len(body)
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack("!BBHHHBBH", first, 0, length, 1, 0, 64, 1, 0) + ends + options + body


def send(namespace: Namespace, packet: bytes, to: str) -> None:
    with make_socket(namespace, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (to, 0))


@settled
def test_nobody_is_sent_past_the_virtual_address(how: str) -> None:
    with start_router(how) as (client, _, _):
        icmp = make_socket(client, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with icmp:
            send(client, echo("192.168.2.10", BEHIND), BEHIND)
            said = receive(icmp)
        assert (said is not None and said[20] == REDIRECT) == (how == AS_IT_IS)


@settled
def test_no_packet_says_itself_where_it_goes(how: str) -> None:
    """By way of the firewall to a server that no rule has seen it going to."""
    with start_router(how) as (client, node, server):
        if how == AS_IT_IS:
            # as on a host where somebody wanted it
            for name in ("all", "eth0", "eth1"):
                node.sysctl(f"net.ipv4.conf.{name}.accept_source_route", 1)
        else:
            node.sysctl("net.ipv4.conf.all.accept_source_route", 1)
        route = bytes([SOURCE_ROUTE, 7, 4]) + socket.inet_aton("192.168.0.10") + b"\0"
        with make_socket(server, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
            server.sysctl("net.ipv4.conf.all.accept_source_route", 1)
            server.sysctl("net.ipv4.conf.eth0.accept_source_route", 1)
            send(client, echo("192.168.2.10", "192.168.2.1", route), "192.168.2.1")
            assert (receive(icmp) is not None) == (how == AS_IT_IS)


def advertisement() -> bytes:
    """A whole packet: a router, for half an hour, and a network to take an address of."""
    ends = ip_address("fe80::bad").packed + ip_address("ff02::1").packed
    body = struct.pack("!BBHBBHLL", ADVERTISEMENT, 0, 0, 64, 0, 1800, 0, 0)
    body += struct.pack("!BBBBLLL", 3, 4, 64, 0xC0, 86400, 86400, 0) + ip_address("2001:db8:bad::").packed
    pseudo = ends + struct.pack("!LL", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    return struct.pack("!LHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255) + ends + body


@settled
def test_a_pair_without_ipv6_takes_no_route_from_a_stranger(how: str) -> None:
    with start_router(how) as (client, node, _):
        with make_socket(client, socket.AF_PACKET, socket.SOCK_DGRAM) as link:
            to_all = ("eth0", ETH_P_IPV6, 0, 0, bytes.fromhex("333300000001"))
            link.sendto(advertisement(), to_all)
        routes = node.run("ip", "-6", "route", "show", "dev", "eth1")
        assert ("default via fe80::bad" in routes) == (how == AS_IT_IS)
        assert ("2001:db8:bad::/64" in routes) == (how == AS_IT_IS)
