# SPDX-License-Identifier: GPL-2.0-or-later
"""Only the other node speaks VRRP, BFD and replication, in a kernel, whatever the policy says.

The policy here lets everybody do everything to the firewall itself: nothing but these rules drops.
"""

import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from agent.adapters.strangers import Strangers
from agent.config import loader
from agent.core.roles import RuleSet
from agent.rules.gate import VRRP_GROUP_4, VRRP_GROUP_6
from agent.rules.peer import MAX_STRANGERS
from agent.rules.strangers import Stranger
from tests.netns.firewall import PAIR_FILE
from tests.netns.packets import checksum
from tests.netns.wire import AH, PATIENCE_S, VRRP, Packet, Wire, frame_of, hardware_of, received, start_wire

pytestmark = pytest.mark.netns

EVERYTHING = """
  - {from: client, to: self, allow: [any]}
  - {from: server, to: self, allow: [any]}
nat:"""
NOBODY = 65534
# so that an advertisement is remembered for as long as a test takes
HOSTILE = PAIR_FILE.replace("\nnat:", EVERYTHING) + "failover: {advert_interval: 10s}\n"
ALLOWED = """
eth1 192.168.2.2 224.0.0.18 proto/112@255
eth1 192.168.2.2 192.168.2.1 proto/112@255
eth0 192.168.0.2 224.0.0.18 proto/112@255
eth1 fd00:0:0:c::2 fd00:0:0:c::1 proto/112@255
eth1 fe80::6861:6677:3d:2 ff02::12 proto/112@255
eth0 fe80::6861:6677:3e:2 ff02::12 proto/112@255
eth1 192.168.2.2 192.168.2.1 udp/3784@255
eth1 192.168.2.2 192.168.2.1 udp/4784@250
eth1 fd00:0:0:c::2 fd00:0:0:c::1 udp/3784@255
eth1 fd00:0:0:c::2 fd00:0:0:c::1 udp/4784
eth2 192.168.1.2 192.168.1.1 udp/3780
eth1 192.168.2.10 192.168.2.1 udp/3780
eth1 192.168.2.10 192.168.2.1 proto/51
eth1 192.168.2.10 192.168.2.1 proto/47
"""
"""The last three are others' business: to a data address, and AH with nothing of VRRP in it."""
FORBIDDEN = """
eth1 192.168.2.10 224.0.0.18 proto/112@255
eth1 192.168.2.10 192.168.2.1 proto/112@255
eth1 192.168.2.2 224.0.0.18 proto/112@254
eth1 192.168.2.2 192.168.2.1 proto/112@1
eth1 192.168.2.2 224.0.0.18 proto/51@255
eth1 192.168.2.10 224.0.0.18 proto/51@255
eth0 192.168.2.2 224.0.0.18 proto/112@255
eth0 192.168.2.2 192.168.0.1 proto/112@255
eth1 192.168.0.2 224.0.0.18 proto/112@255
eth2 192.168.1.2 224.0.0.18 proto/112@255
eth2 192.168.1.2 192.168.1.1 proto/112@255
eth1 fd00:0:0:c::10 ff02::12 proto/112@255
eth1 fd00:0:0:c::10 fd00:0:0:c::1 proto/112@255
eth1 fe80::10 fd00:0:0:c::1 proto/112@255
eth1 fe80::10 ff02::12 proto/112@255
eth1 fe80::6861:6677:3d:3 ff02::12 proto/112@255
eth1 fe80::6861:6677:3e:2 ff02::12 proto/112@255
eth0 fe80::6861:6677:3d:2 ff02::12 proto/112@255
eth1 fe80::6861:6677:3d:1 ff02::12 proto/112@255
eth1 fe80::6861:6677:3d:2 ff02::12 proto/112@254
eth1 fe80::6861:6677:3d:2 ff02::12 proto/51@255
eth1 fd00:0:0:c::2 fd00:0:0:c::1 proto/112@254
eth0 fd00:0:0:c::2 ff02::12 proto/112@255
eth1 fd00:0:0:c::1 ff02::12 proto/112@255
eth1 fd00:0:0:c::1 fd00:0:0:c::1 proto/112@255
eth1 192.168.2.10 192.168.2.1 udp/3784@255
eth1 192.168.2.10 192.168.2.1 udp/4784@255
eth1 192.168.2.2 192.168.2.1 udp/3784@254
eth0 192.168.2.2 192.168.0.1 udp/3784@255
eth2 192.168.1.2 192.168.1.1 udp/3784@255
eth1 fd00:0:0:c::10 fd00:0:0:c::1 udp/3784@255
eth2 192.168.1.3 192.168.1.1 udp/3780
eth1 192.168.1.2 192.168.1.1 udp/3780
eth1 192.168.2.10 192.168.1.1 udp/3780
"""


def packets(text: str) -> Iterator[Packet]:
    for line in text.split("\n"):
        if line:
            interface, source, target, what = line.split()
            yield Packet(interface, ip_address(source), ip_address(target), what)


@contextmanager
def start_hostile(role: RuleSet) -> Iterator[Wire]:
    """A firewall that has joined the groups of VRRP, as keepalived does."""
    pair = loader.parse(HOSTILE)
    with start_wire(pair, "fw-1") as wire:
        for interface in pair.interfaces:
            own = pair.advertiser("fw-1", interface)
            if own is not None:
                wire.node.ip(f"address add {own}/64 dev {interface.name} nodad")
            with wire.node.entered():
                index = socket.if_nametoindex(interface.name)
            for protocol in (AH, VRRP):
                four = struct.pack("=4s4si", ip_address(VRRP_GROUP_4).packed, bytes(4), index)
                wire.raws[4, protocol].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, four)
                six = struct.pack("=16si", ip_address(VRRP_GROUP_6).packed, index)
                wire.raws[6, protocol].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, six)
        wire.be(role)
        yield wire


def strangers_of(wire: Wire) -> set[Stranger]:
    with wire.node.entered():
        found = Strangers().read()
    assert found is not None
    return set(found)


def advertised_of(wire: Wire) -> frozenset[str]:
    with wire.node.entered():
        return Strangers().read_advertised()


def count(wire: Wire) -> int:
    return next(one.packets for one in wire.rules.read().counters if one.name == "strangers")


@pytest.mark.parametrize("role", RuleSet)
def test_only_the_other_nodes_own_addresses_are_heard(role: RuleSet) -> None:
    with start_hostile(role) as wire:
        deaf = [str(packet) for packet in packets(ALLOWED) if wire.send(packet) != "self"]
        assert not deaf
        assert not strangers_of(wire)
        assert advertised_of(wire) == {"eth0", "eth1"}
        heard = [str(packet) for packet in packets(FORBIDDEN) if wire.send(packet) != "drop"]
        assert not heard
        assert wire.drift() is None, "what the packets put into the sets is no change of the rules"


@pytest.mark.parametrize("role", RuleSet)
def test_only_the_other_node_advertises_itself(role: RuleSet) -> None:
    with start_hostile(role) as wire:
        for packet in packets(FORBIDDEN):
            wire.send(packet)
        assert not advertised_of(wire)


@pytest.mark.parametrize("role", RuleSet)
def test_a_stranger_is_counted_and_known_by_interface_and_address(role: RuleSet) -> None:
    with start_hostile(role) as wire:
        for line in (
            "eth1 192.168.2.10 224.0.0.18 proto/112@255",
            "eth0 fe80::10 ff02::12 proto/112@255",
            "eth2 192.168.1.3 192.168.1.1 udp/3780",
            # routing would drop it without a word: it has this node's own address
            "eth1 192.168.2.1 224.0.0.18 proto/112@255",
        ):
            for packet in packets(line):
                assert wire.send(packet) == "drop"
        assert strangers_of(wire) == {
            Stranger("eth0", "fe80::10", 112),
            Stranger("eth1", "192.168.2.1", 112),
            Stranger("eth1", "192.168.2.10", 112),
            Stranger("eth2", "192.168.1.3", 17),
        }
        assert count(wire) == 4


@contextmanager
def sender_of(wire: Wire, user: int) -> Iterator[socket.socket]:
    """A socket that a process of this user has opened on the node."""
    libc = ctypes.CDLL(None, use_errno=True)
    with wire.node.entered():
        before = libc.setfsuid(user)
        try:
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            libc.setfsuid(before)
    with sender:
        yield sender


@pytest.mark.parametrize("role", RuleSet)
def test_of_this_nodes_users_only_root_speaks_for_it(role: RuleSet) -> None:
    """A packet of theirs has this node's address, and to this node itself it comes by lo."""
    own, peer = ("192.168.1.1", 3780), ("192.168.1.2", 3780)
    with start_hostile(role) as wire, sender_of(wire, 0) as root, sender_of(wire, NOBODY) as nobody:
        with wire.node.entered():
            listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with listener:
            listener.bind(own)
            listener.settimeout(PATIENCE_S)
            for address in (own, peer):
                with pytest.raises(PermissionError):
                    nobody.sendto(b"nobody", address)
            assert strangers_of(wire) == {
                Stranger("eth2", "192.168.1.1", 17),
                Stranger("lo", "192.168.1.1", 17),
            }
            assert count(wire) == 2
            nobody.sendto(b"nobody", ("192.168.1.2", 3781))
            root.sendto(b"root", peer)
            root.sendto(b"root", own)
            assert listener.recv(16) == b"root"
        assert count(wire) == 2
        assert wire.drift() is None


def test_more_strangers_than_are_remembered_are_dropped_all_the_same() -> None:
    """The set is small, so that addresses made up cost nothing; when it is full nobody slips through."""
    many = 3 * MAX_STRANGERS
    with start_hostile(RuleSet.PRIMARY) as wire:
        for number in range(many):
            source = ip_address(f"192.168.2.{number % 150 + 101}")
            group = ip_address(VRRP_GROUP_4)
            assert wire.send(Packet("eth1", source, group, "proto/112@255")) == "drop"
        assert len(strangers_of(wire)) == MAX_STRANGERS
        assert count(wire) == many


def test_a_node_with_an_older_keepalived_conf_is_known_by_its_hardware() -> None:
    """It sends from a link-local address that no other host can know. A stranger's hardware does not do."""
    with start_hostile(RuleSet.BACKUP) as wire:
        group = ip_address(VRRP_GROUP_6)
        old = Packet("eth1", ip_address("fe80::aa:1"), group, "proto/112@255")
        peers = framed(wire, old, ADVERT, first=VRRP, hardware=hardware_of(PEER_4))
        strangers = framed(wire, old, ADVERT, first=VRRP, hardware=hardware_of(STRANGER_4))
        assert not hears(wire, 6, peers)
        for packet in packets("eth1 192.168.2.10 224.0.0.18 proto/112@255"):
            assert wire.send(packet) == "drop"
        assert not hears(wire, 6, strangers), "only the other node's advertisements are learnt from"
        for packet in packets("eth1 192.168.2.2 224.0.0.18 proto/112@255"):
            assert wire.send(packet) == "self"
        assert hears(wire, 6, peers)
        assert not hears(wire, 6, strangers)
        wire.taps["eth0"].send(wire.macs["eth0"] + peers[6:])
        assert not hears(wire, 6), "on that link alone"


# -- packets that are not as they should be --

PEER_4, OWN_4 = ip_address("192.168.2.2"), ip_address("192.168.2.1")
STRANGER_4, STRANGER_6 = ip_address("192.168.2.10"), ip_address("fd00:0:0:c::10")
PEER_6, OWN_6 = ip_address("fd00:0:0:c::2"), ip_address("fd00:0:0:c::1")
FRAGMENT = 44
ADVERT = struct.pack("!BBBBHH", 0x31, 61, 255, 1, 10, 0) + bytes(4)


def hears(wire: Wire, version: int, *frames: bytes) -> bool:
    """Whether a raw socket like keepalived's gets the advertisement in these frames."""
    raws = [wire.raws[version, protocol] for protocol in (AH, VRRP)]
    tap = wire.taps["eth1"]
    for frame in frames:
        tap.send(frame)
    # what is sent behind it arrives behind it
    wire.send(Packet("eth1", STRANGER_4, OWN_4, "icmp"))
    return any(ADVERT in body for raw in raws for body, _ in received(raw))


def framed(
    wire: Wire,
    packet: Packet,
    body: bytes,
    *,
    first: int,
    fragment: int = 0,
    hardware: bytes | None = None,
) -> bytes:
    """`packet` with another body, whose first header is of the protocol `first`."""
    made = frame_of(packet, wire.macs["eth1"], 0)
    made = made[:6] + (hardware or made[6:12]) + made[12:]
    if packet.source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 77, fragment, packet.hops, first, 0)
        addresses = packet.source.packed + packet.target.packed
        from_checksum = struct.pack("!H", checksum(head + addresses))
        return made[:14] + head[:10] + from_checksum + addresses + body
    head = struct.pack("!IHBB", 6 << 28, len(body), first, packet.hops)
    return made[:14] + head + packet.source.packed + packet.target.packed + body


def test_the_measure_itself() -> None:
    with start_hostile(RuleSet.BACKUP) as wire:
        for version, source, target in ((4, PEER_4, OWN_4), (6, PEER_6, OWN_6)):
            packet = Packet("eth1", source, target, "proto/112@255")
            assert hears(wire, version, framed(wire, packet, ADVERT, first=VRRP))


def test_a_strangers_fragments_are_judged_as_one_packet() -> None:
    with start_hostile(RuleSet.BACKUP) as wire:
        for source, heard in ((PEER_4, True), (STRANGER_4, False)):
            packet = Packet("eth1", source, OWN_4, "proto/112@255")
            more, rest = (
                framed(wire, packet, ADVERT[:8], first=VRRP, fragment=0x2000),
                framed(wire, packet, ADVERT[8:], first=VRRP, fragment=1),
            )
            assert hears(wire, 4, more, rest) is heard
            assert hears(wire, 4, rest, more) is heard
        head = struct.pack("!BBHI", VRRP, 0, 1, 77)
        tail = struct.pack("!BBHI", VRRP, 0, 8, 77)
        packet = Packet("eth1", STRANGER_6, OWN_6, "proto/112@255")
        pieces = (head + ADVERT[:8], tail + ADVERT[8:])
        assert not hears(wire, 6, *(framed(wire, packet, one, first=FRAGMENT) for one in pieces))


@pytest.mark.parametrize("source", [PEER_6, STRANGER_6])
@pytest.mark.parametrize("header", [0, 43, 60], ids=["hop-by-hop", "routing", "destination"])
def test_nothing_stands_between_ipv6_and_vrrp(source: object, header: int) -> None:
    """keepalived sends no such header; what hides behind one is nobody's."""
    between = struct.pack("!BBBB", VRRP, 0, 1, 4) + bytes(4)
    if header == 43:
        between = struct.pack("!BBBB", VRRP, 0, 4, 0) + bytes(4)
    with start_hostile(RuleSet.BACKUP) as wire:
        packet = Packet("eth1", ip_address(str(source)), OWN_6, "proto/112@255")
        assert not hears(wire, 6, framed(wire, packet, between + ADVERT, first=header))


def test_nothing_wraps_vrrp_in_ah() -> None:
    head = struct.pack("!BBHII", VRRP, 4, 0, 1, 1) + bytes(12)
    with start_hostile(RuleSet.BACKUP) as wire:
        for number, (source, target) in enumerate(
            ((PEER_4, OWN_4), (STRANGER_4, OWN_4), (PEER_6, OWN_6), (STRANGER_6, OWN_6)), start=1
        ):
            packet = Packet("eth1", source, target, "proto/51@255")
            version = source.version
            assert not hears(wire, version, framed(wire, packet, head + ADVERT, first=AH))
            assert len(strangers_of(wire)) == number
