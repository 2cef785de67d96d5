# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that speaks VRRP with our VRID and the highest priority moves nothing in a pair of real daemons,
however fast it sends, and both nodes say who it is. Without the rules nobody is primary while it sends."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from functools import partial

import pytest

from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.model.topology_file import load_topology
from tests.checkout import ROOT
from tests.netns.pair_checks import find, living, records, until, wait_quiet, wait_record

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="sends raw packets")]

# RFC 9568's checksum covers a pseudo header; the source is this client's own, or made up in its network
SPEAK = """
import random, socket, struct, sys, time
vrid, rate, addresses = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
GROUP = socket.inet_aton("224.0.0.18")
def summed(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
def advert(source):
    own, body = socket.inet_aton(source), struct.pack("!BBBBHH", 0x31, vrid, 255, 1, 10, 0)
    body += socket.inet_aton("192.168.2.100")
    body = body[:6] + struct.pack("!H", summed(own + GROUP + struct.pack("!BBH", 0, 112, len(body)) + body))\
 + body[8:]
    head = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(body), 0, 0, 255, 112, 0) + own + GROUP
    return head[:10] + struct.pack("!H", summed(head)) + head[12:] + body
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
packets = [advert(address) for address in addresses]
print("ready", flush=True)
due = time.monotonic()
while True:
    out.sendto(random.choice(packets), ("224.0.0.18", 0))
    if rate < 100:
        print(time.monotonic_ns(), flush=True)
    due += 1 / rate
    time.sleep(max(0, due - time.monotonic()))
"""
# over IPv6 the kernel sums up; the source is this client's own link-local address
SPEAK_6 = """
import socket, struct, sys, time
vrid, rate, group = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
out = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 112)
out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)
out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
vip = socket.inet_pton(socket.AF_INET6, "fe80::200:5eff:fe00:23d")
body = struct.pack("!BBBBHH", 0x31, vrid, 255, 1, 10, 0) + vip
print("ready", flush=True)
due = time.monotonic()
while True:
    out.sendto(body, (group, 0))
    if rate < 100:
        print(time.monotonic_ns(), flush=True)
    due += 1 / rate
    time.sleep(max(0, due - time.monotonic()))
"""
VRID = "61"
NAMED_AFTER = 25
"""At ten a second: two seconds after the first, and what a busy machine may add."""
SPEAKS_S = 5.0
"""Three times the silence after which a backup takes over."""


TOPOLOGY = ROOT / "host-tools" / "topologies" / "dual-stack.yaml"
KEEPALIVED_CONF = str(Paths().keepalived_config)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # a busy machine that keeps a primary waiting is not what is tried here
    options = LabOptions(advert_interval_ms=500)
    with Lab.start(options, load_topology(TOPOLOGY), name="strangers") as started:
        wait_quiet(started)
        yield started


@contextlib.contextmanager
def speaking(client: Node, program: str, rate: int, *arguments: str) -> Iterator[list[int]]:
    """Gives, when it has ended, the moments at which a slow one has sent, by the clock of the records."""
    argv = ["/usr/bin/python3", "-I", "-c", program, VRID, str(rate), *arguments]
    running = client.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    sent: list[int] = []
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        yield sent
    finally:
        running.kill()
        lines = running.communicate()[0].splitlines(keepends=True)
        sent += [int(line) for line in lines if line.endswith(b"\n")]


def exit_status(node: Node) -> int:
    return node.run(["/usr/sbin/hafw", "status"], check=False).returncode


@pytest.mark.parametrize(
    ("program", "rate", "arguments", "named"),
    [
        (SPEAK, 10, ["192.168.2.10"], "VRRP from 192.168.2.10 on eth1"),
        (SPEAK, 10_000, ["192.168.2.10"], "VRRP from 192.168.2.10 on eth1"),
        (SPEAK, 10_000, [f"192.168.2.{number}" for number in range(101, 251)], "VRRP from 192.168.2."),
        (SPEAK_6, 10, ["ff02::12"], "VRRP from fe80::"),
        (SPEAK_6, 10_000, ["ff02::12"], "VRRP from fe80::"),
    ],
    ids=["slow", "flood", "from everywhere", "slow by IPv6", "flood by IPv6"],
)
def test_a_stranger_moves_nothing_and_is_named(
    lab: Lab, program: str, rate: int, arguments: list[str], named: str
) -> None:
    primary = lab.wait_primary(None, 5)
    since = time.monotonic_ns()
    named_at: dict[str, int] = {}
    with living(lab):
        with speaking(lab.node("client"), program, rate, *arguments) as sent:
            begun = time.monotonic()
            for name in lab.firewalls:
                said = wait_record(lab.node(name), since, 10, event="alarm", condition="stranger")
                assert named in str(said["message"])
                named_at[name] = int(str(said["mono_ns"]))
                assert exit_status(lab.node(name)) == 1
            until(lambda: time.monotonic() - begun > SPEAKS_S, SPEAKS_S + 5, "the clock stands")
            for name in lab.firewalls:
                status = lab.status().node(name).agent
                assert status is not None
                assert "stranger" in status["problems"]
                assert status["rules"]["counters"]["strangers"] > 0
        for name, moment in named_at.items() if rate == 10 else ():
            unheard = sum(one < moment for one in sent)
            assert 0 < unheard <= NAMED_AFTER, f"{name}: {unheard} before it said so"
        for name in lab.firewalls:
            wait_record(lab.node(name), since, 30, event="recovered", condition="stranger")
    assert lab.wait_primary(None, 5) == primary
    for name in lab.firewalls:
        found = records(lab.node(name), since)
        assert not find(found, event="transition"), "the role moved"
        assert len(find(found, event="alarm", condition="stranger")) == 1
        assert exit_status(lab.node(name)) == 0


def test_a_peer_that_advertises_itself_beside_the_primary(lab: Lab) -> None:
    """As one does that does not hear the primary. It is the other node, so nothing of it is dropped."""
    primary = lab.wait_primary(None, 5)
    peer, since = other(lab, primary), time.monotonic_ns()
    lower = SPEAK.replace("vrid, 255,", "vrid, 1,").replace('b"eth0"', 'b"eth1"')
    with speaking(lab.node(peer), lower, 10, {"fw-1": "192.168.2.1", "fw-2": "192.168.2.2"}[peer]):
        said = wait_record(lab.node(primary), since, 30, event="alarm", condition="two-primaries")
        assert f"{peer} advertises itself on eth1" in str(said["message"])
        assert exit_status(lab.node(primary)) == 2
    wait_record(lab.node(primary), since, 30, event="recovered", condition="two-primaries")
    assert lab.wait_primary(None, 5) == primary
    for name in lab.firewalls:
        assert not find(records(lab.node(name), since), event="transition"), "the role moved"
        assert exit_status(lab.node(name)) == 0


def test_a_pair_whose_keepalived_conf_is_older_than_its_rules_stays_a_pair(lab: Lab) -> None:
    """Each node then sends from a link-local address that the other's rules cannot know beforehand."""
    primary = lab.wait_primary(None, 5)
    for name in (other(lab, primary), primary):
        node = lab.node(name)
        text = node.read_text(KEEPALIVED_CONF)
        older = re.sub(r"(?m)^ *mcast_src_ip .*\n", "", text)
        older = re.sub(r"static_ipaddress \{[^}]*\}\n", "", older).partition("\n")[2]  # as if made by hand
        assert "fe80::6861" in text
        assert "fe80::6861" not in older
        node.stop_service("keepalived")
        node.write_text(KEEPALIVED_CONF, older)
        node.start_service("keepalived")
        lab.wait_settled(30)
        assert "fe80::6861" not in node.run(["ip", "-6", "address"]).stdout, "it sends from there after all"
    wait_quiet(lab)
    for name in lab.firewalls:
        until(partial(is_well, lab.node(name)), 30, partial(said, lab.node(name)))
    since, dropped = time.monotonic_ns(), [strangers(lab, name) for name in lab.firewalls]
    with living(lab):
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > SPEAKS_S, SPEAKS_S + 5, "the clock stands")
    for name in lab.firewalls:
        assert records(lab.node(name), since) == []
    assert [strangers(lab, name) for name in lab.firewalls] == dropped, "the peer is taken for a stranger"


def is_well(node: Node) -> bool:
    return exit_status(node) == 0


def said(node: Node) -> str:
    return node.run(["/usr/sbin/hafw", "status"], check=False).stdout


def strangers(lab: Lab, name: str) -> int:
    """How many packets were dropped as a stranger's."""
    said = lab.status().node(name).agent
    assert said is not None
    return int(said["rules"]["counters"]["strangers"])
