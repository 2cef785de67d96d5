# SPDX-License-Identifier: GPL-2.0-or-later
"""Only the packet that was asked about is traced. Whatever else arrives in the copy of a node is left alone:
its own interfaces report their multicast groups at any time, and such a report was once taken for it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from agent.adapters import nft_trace
from agent.adapters.frame import SENDER, Probe, build
from agent.errors import HafwError, UnavailableError
from tests.netns.namespaces import Namespace, start_namespaces

pytestmark = pytest.mark.netns

PEER = "hafw-peer1"
FRAME = build(Probe(ip_address("192.168.2.10"), ip_address("192.168.2.1"), "udp", 1, 2), b"\xff" * 6)
OTHER_FRAME = FRAME.replace(SENDER, b"\2\0\0\0\0\2")


@pytest.fixture
def copy() -> Iterator[Namespace]:
    with start_namespaces("copy") as (namespace,):
        namespace.ip(f"link add eth1 type veth peer name {PEER}")
        namespace.ip("link set eth1 up")
        namespace.ip(f"link set {PEER} up")
        namespace.run("nft", nft_trace.marking("eth1"))
        yield namespace


@contextmanager
def other_frames(namespace: Namespace) -> Iterator[None]:
    ended = threading.Event()
    with namespace.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind((PEER, 0))

    def send() -> None:
        for _ in range(1000):
            if ended.wait(0.001):
                break
            wire.send(OTHER_FRAME)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        wire.close()


def test_what_else_arrives_is_not_traced(copy: Namespace) -> None:
    with other_frames(copy), copy.entered():
        events = nft_trace.watch(PEER, FRAME)
    # the rule that marks it, the end of its chain, the policy
    assert [event.kind for event in events] == ["rule", "rule", "policy"]


def test_an_interface_that_the_copy_does_not_have_is_one_sentence(copy: Namespace) -> None:
    with copy.entered(), pytest.raises(UnavailableError, match=r"cannot send .*: No such device"):
        nft_trace.watch("hafw-peer9", FRAME)


def test_nothing_arrives_at_the_loopback_interface(copy: Namespace) -> None:
    probe = Probe(ip_address("127.0.0.1"), ip_address("192.168.2.1"), "udp", 1, 2)
    with copy.entered(), pytest.raises(HafwError, match="nothing arrives at lo from outside; give the"):
        nft_trace.trace("lo", probe)
