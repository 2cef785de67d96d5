# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's table, listed, compared and touched, with two real conntrackds."""

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.adapters.state_process import StateProcess
from agent.core.census import HASH_BYTES, Census, unpack_hashes
from agent.core.refresh import Pass, Slice
from agent.model.pair import SyncMode
from tests.netns.agent.adapters.test_conntrackd import IGNORED, Nodes, Replicator, start_nodes

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

LIMIT_S = 30.0
RATE = 40_000.0
STATES = StateProcess(IGNORED)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with start_nodes(tmp_path, SyncMode.DIRECT) as started:
        yield started


def add(node: Replicator, *states: str) -> None:
    for state in states:
        node.namespace.run("conntrack", "-I", *state.split())


OTHERS = (
    "-p udp -s 10.0.1.1 -d 10.0.2.1 --sport 5000 --dport 53 -t 600",
    "-p icmp -s 10.0.1.1 -d 10.0.2.1 --icmp-type 8 --icmp-code 0 --icmp-id 9 -t 600",
    "-p tcp -s fd00:1::1 -d fd00:2::1 --sport 5000 --dport 80 --state ESTABLISHED -t 600 -u SEEN_REPLY",
    "-p udp -s fd00:1::1 -d fd00:2::1 --sport 5000 --dport 53 -t 600",
)
LOCAL = (
    "-p tcp -s 10.0.1.1 -d 192.168.1.1 --sport 5000 --dport 22 --state ESTABLISHED -t 600",
    "-p tcp -s 192.168.1.1 -d 10.0.1.1 --sport 5000 --dport 22 --state ESTABLISHED -t 600",
    "-p udp -s 127.0.0.5 -d 127.0.0.1 --sport 5000 --dport 53 -t 600",
    "-p udp -s ::1 -d ::1 --sport 5000 --dport 53 -t 600",
    "-p udp -s fd00:1::1 -d fd00:9::1 --sport 5000 --dport 53 -t 600",
)
ENDS = ("203.0.113.7", "203.0.113.8")
FOREIGN = ("-p gre -s 10.0.1.1 -d 10.0.2.1 --srckey 1 --dstkey 2 -t 600",)


async def census(node: Replicator) -> Census:
    with node.namespace.entered():
        return await STATES.list()


async def until_same(nodes: Nodes, count: int) -> None:
    """Both nodes have these states, and no others."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            one, other = [
                set(unpack_hashes((await census(node)).hashes)) for node in (nodes.primary, nodes.backup)
            ]
            if one == other and len(one) == count:
                return
            await asyncio.sleep(0.1)


async def missing_on_backup(nodes: Nodes) -> bytes:
    primary = await census(nodes.primary)
    with nodes.backup.namespace.entered():
        return (await STATES.compare(primary.hashes)).missing


def test_what_is_counted_is_what_conntrackd_replicates(nodes: Nodes) -> None:
    async def scenario() -> None:
        assert (await census(nodes.primary)).total == 0
        nodes.primary.add_states(500)
        add(nodes.primary, *OTHERS, *LOCAL, *FOREIGN)
        found = await census(nodes.primary)
        assert found.protocols == {"tcp": 501, "udp": 2, "icmp": 1}
        await until_same(nodes, 504)
        assert (await nodes.primary.conntrackd.statistics()).internal == found.total == 504

    asyncio.run(scenario())


def test_what_a_backup_lacks_comes_back_by_a_touch(nodes: Nodes) -> None:
    """And nothing of it comes back to the primary, whose states stay the same ones."""

    async def scenario() -> None:
        nodes.primary.add_states(2000)
        add(nodes.primary, *OTHERS)
        await until_same(nodes, 2004)
        identities = nodes.primary.namespace.run("conntrack", "-L", "-o", "id").splitlines()
        nodes.backup.namespace.run("conntrack", "-D", "-p", "udp")
        nodes.backup.namespace.run("conntrack", "-D", "-p", "tcp", "-s", "10.0.0.0/27")
        missing = await missing_on_backup(nodes)
        assert len(missing) // HASH_BYTES == 31 + 2
        nodes.primary.namespace.run("conntrack", "-D", "-p", "udp", "-s", "10.0.1.1")
        with nodes.primary.namespace.entered():
            assert await STATES.touch(missing, RATE) == 31 + 1, "one has ended meanwhile"
        await until_same(nodes, 2003)
        assert await missing_on_backup(nodes) == b""
        left = [
            one.split() for one in nodes.primary.namespace.run("conntrack", "-L", "-o", "id").splitlines()
        ]
        assert {one[-1] for one in left} < {one.split()[-1] for one in identities}
        assert (await nodes.primary.conntrackd.statistics()).injected == 0

    asyncio.run(scenario())


def test_a_backup_with_nothing_gets_all(nodes: Nodes) -> None:
    async def scenario() -> None:
        nodes.primary.add_states(2000)
        add(nodes.primary, *OTHERS)
        await until_same(nodes, 2004)
        nodes.backup.namespace.run("conntrack", "-F")
        with nodes.primary.namespace.entered():
            assert await STATES.touch((await STATES.list()).hashes, RATE) == 2004
        await until_same(nodes, 2004)

    asyncio.run(scenario())


def test_what_only_the_backup_had_twice_ends_there_and_nowhere_else(nodes: Nodes) -> None:
    """Here it lives: a list that is too short. The primary keeps it, and brings it back by a touch."""

    async def scenario() -> None:
        nodes.primary.add_states(100)
        add(nodes.primary, *OTHERS)
        await until_same(nodes, 104)
        listed = (await census(nodes.primary)).hashes
        short = listed[: 90 * HASH_BYTES]
        with nodes.backup.namespace.entered():
            found = await STATES.compare_all(short, b"")
            assert (found.missing, len(found.alone) // HASH_BYTES, found.ended) == (b"", 14, b"")
            assert not (await STATES.compare_all(listed, found.alone)).ended
            assert (await STATES.list()).total == 104
            again = await STATES.compare_all(short, found.alone)
            assert (again.missing, again.alone, {*unpack_hashes(again.ended)}) == (
                b"",
                b"",
                {*unpack_hashes(found.alone)},
            )
            assert (await STATES.list()).total == 90
        await asyncio.sleep(1)  # for what must not come to the primary
        assert (await census(nodes.primary)).total == 104
        with nodes.primary.namespace.entered():
            assert await STATES.touch(again.ended, RATE) == 14
        await until_same(nodes, 104)

    asyncio.run(scenario())


def test_what_this_node_itself_is_an_end_of_stays(nodes: Nodes) -> None:
    """As the terminal of an administrator, by an address that the pair file does not name."""

    async def scenario() -> None:
        nodes.backup.namespace.ip("address add 203.0.113.7/32 dev lo")
        states = [
            f"-p tcp -s 10.0.1.1 -d {end} --sport 5000 --dport 22 --state ESTABLISHED -t 600" for end in ENDS
        ]
        add(nodes.backup, *states, "-p udp -s 203.0.113.7 -d 10.0.2.1 --sport 5000 --dport 53 -t 600")
        with nodes.backup.namespace.entered():
            alone = (await STATES.compare_all(b"", b"")).alone
            found = await STATES.compare_all(b"", alone)
            assert (len(alone), len(found.alone), len(found.ended)) == (24, 16, 8)
            assert "203.0.113.8" not in nodes.backup.namespace.run("conntrack", "-L")

    asyncio.run(scenario())


def time_left_s(node: Replicator, what: str) -> int:
    listed = node.namespace.run("conntrack", "-L", *what.split()).split()
    return int(next(word for word in listed[2:] if word.isdigit()))


async def touch_ending(node: Replicator, part: Slice, ending: bytes = b"") -> Pass:
    with node.namespace.entered():
        return await STATES.touch_ending(part, ending, RATE)


def send_datagram(node: Replicator) -> None:
    """Of the state EXPIRING: a packet that the kernel reports nothing of, and that reaches nobody."""
    node.namespace.run("ip", "route", "add", "10.0.2.0/24", "via", "192.168.1.77")
    udp = struct.pack("!HHHH", 5000, 53, 8, 0)
    addresses = IPv4Address("10.0.1.1").packed + IPv4Address("10.0.2.1").packed
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 28, 1, 0, 64, socket.IPPROTO_UDP, 0) + addresses + udp
    with (
        node.namespace.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
    ):
        raw.sendto(packet, ("10.0.2.1", 0))


EXPIRING = "-p udp -s 10.0.1.1 -d 10.0.2.1 --sport 5000 --dport 53"


def test_datagrams_are_reported_again_and_their_copies_have_their_time_again(nodes: Nodes) -> None:
    async def scenario() -> None:
        nodes.primary.add_states(500)
        add(nodes.primary, f"{EXPIRING} -t 15", *OTHERS[1:])
        await until_same(nodes, 504)
        send_datagram(nodes.primary)
        assert time_left_s(nodes.primary, EXPIRING) > 20 > time_left_s(nodes.backup, EXPIRING)
        with nodes.primary.namespace.entered():
            assert await STATES.touch_datagrams(RATE) == 3
        async with asyncio.timeout(LIMIT_S):
            while time_left_s(nodes.backup, EXPIRING) < 20:
                await asyncio.sleep(0.1)

    asyncio.run(scenario())


def test_connections_are_reported_again_by_what_is_left_to_them_and_in_turn(nodes: Nodes) -> None:
    idle = "-p tcp -s 10.0.7.1 -d 10.0.2.1 --sport 5000 --dport 80"

    async def scenario() -> None:
        nodes.primary.add_states(500)  # with hours left
        add(nodes.primary, f"{idle} --state ESTABLISHED -t 300 -u SEEN_REPLY", OTHERS[0])
        await until_same(nodes, 502)
        assert (await touch_ending(nodes.primary, Slice(0.0, 1.0))).touched == 501
        halves = [(await touch_ending(nodes.primary, Slice(begin, 0.5))).touched for begin in (0.25, 0.75)]
        assert sum(halves) == 502, "the idle one both times"
        assert all(100 < half < 400 for half in halves)
        found = await touch_ending(nodes.primary, Slice(0.0, 0.0))
        assert found.touched == 1
        nodes.primary.namespace.run("conntrack", "-U", *idle.split(), "-t", "80000")
        revived = await touch_ending(nodes.primary, Slice(0.0, 0.0), found.ending)
        assert revived == Pass(1, b""), "its copy has little left, whatever it has itself"
        assert (await touch_ending(nodes.primary, Slice(0.0, 0.0), revived.ending)).touched == 0

    asyncio.run(scenario())
