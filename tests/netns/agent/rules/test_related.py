# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes in to the firewall itself because of another connection: errors about its own, and nothing
that a helper has announced."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from agent.core.roles import RuleSet
from tests.netns.firewall import Firewall, start_firewall
from tests.netns.namespaces import Namespace
from tests.netns.packets import connect, listen, make_socket, udp

pytestmark = pytest.mark.netns

SERVER = "192.168.0.10"
OWN_NEAR_SERVER = "192.168.0.1"
CLIENT = {4: "192.168.2.10", 6: "fd00:0:0:c::10"}
OWN = {4: "192.168.2.1", 6: "fd00:0:0:c::1"}


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as started:
        yield started


def expect(node: Namespace, master: tuple[str, str, int, int], wanted: tuple[str, str, int, int]) -> None:
    """Announces a connection of TCP, from any port, as a helper of the connection `master` would.
    (conntrack(8) 1.4.7 writes a wrong protocol.)"""

    def attribute(kind: int, *parts: bytes, nested: bool = True) -> bytes:
        body = b"".join(parts)
        kind |= 0x8000 if nested else 0
        return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)

    def ends(kind: int, source: bytes, target: bytes, sport: int, dport: int) -> bytes:
        addresses = attribute(1, attribute(1, source, nested=False), attribute(2, target, nested=False))
        ports = (
            attribute(2 + at, struct.pack("!H", port), nested=False)
            for at, port in enumerate((sport, dport))
        )
        return attribute(kind, addresses, attribute(2, attribute(1, b"\x06", nested=False), *ports))

    tuples = [
        ends(kind, ip_address(source).packed, ip_address(target).packed, sport, dport)
        for kind, (source, target, sport, dport) in ((1, master), (2, wanted))
    ]
    lasting = attribute(4, struct.pack("!I", 60), nested=False)
    body = struct.pack("!BBH", socket.AF_INET, 0, 0) + b"".join(
        (*tuples, ends(3, b"\xff" * 4, b"\xff" * 4, 0, 0xFFFF), lasting)
    )
    # NETLINK_NETFILTER; of ctnetlink's expectations "new", with request, acknowledge, exclusive and create
    with make_socket(node, socket.AF_NETLINK, socket.SOCK_RAW, 12) as asked:
        asked.send(struct.pack("=IHHII", 16 + len(body), 2 << 8, 0x605, 1, 0) + body)
        (code,) = struct.unpack_from("=i", asked.recv(1 << 16), 16)
    assert code == 0, code


def test_what_a_helper_expects_of_the_firewall_itself_is_up_to_its_own_rules(firewall: Firewall) -> None:
    """Helpers follow what is forwarded; an expectation is no way in to the firewall."""
    firewall.rules.load(RuleSet.PRIMARY)
    with listen(firewall.server, SERVER, 21), listen(firewall.node, OWN_NEAR_SERVER, 6000) as listener:
        control = connect(firewall.client, SERVER, 21)
        assert control is not None
        ends = (CLIENT[4], SERVER, control.getsockname()[1], 21)
        expect(firewall.node, ends, (SERVER, OWN_NEAR_SERVER, 0, 6000))
        assert "dport=6000" in firewall.node.run("conntrack", "-L", "expect")
        before = firewall.count("input")
        assert connect(firewall.server, OWN_NEAR_SERVER, 6000) is None
        assert firewall.count("input") > before
        assert "dport=6000" not in firewall.node.run("conntrack", "-L", "expect"), "it was no related one"
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
        control.close()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("role", list(RuleSet))
def test_errors_about_the_firewalls_own_packets_reach_it(
    firewall: Firewall, version: int, role: RuleSet
) -> None:
    """That nobody listens there, and that the way is narrower further on."""
    firewall.rules.load(role)
    beyond = "198.51.100.9" if version == 4 else "2001:db8:5::9"
    length, level, option = (24, socket.IPPROTO_IP, 14) if version == 4 else (64, socket.IPPROTO_IPV6, 24)
    firewall.client.sysctl("net.ipv4.ip_forward", 1)
    firewall.client.sysctl("net.ipv6.conf.all.forwarding", 1)
    firewall.client.ip("link add narrow mtu 1280 type veth peer name far-end")
    firewall.client.ip("link set far-end up")
    firewall.client.ip("link set narrow up")
    firewall.client.ip(f"-{version} route add {ip_network(f'{beyond}/{length}', strict=False)} dev narrow")
    firewall.node.ip(f"-{version} route add {beyond} via {CLIENT[version]}")
    with udp(firewall.node, OWN[version], 0) as asking:
        asking.connect((CLIENT[version], 9))
        asking.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            asking.recv(16)
    with udp(firewall.node, OWN[version], 0) as asking:
        asking.connect((beyond, 9))
        # IP_MTU_DISCOVER and IPV6_MTU_DISCOVER: do; IP_RECVERR and IPV6_RECVERR wake who waits for the error
        asking.setsockopt(level, 10 if version == 4 else 23, 2)
        asking.setsockopt(level, 11 if version == 4 else 25, 1)
        asking.send(bytes(1400))
        with pytest.raises(OSError, match="Message too long"):
            asking.recv(16)
        assert asking.getsockopt(level, option) == 1280
