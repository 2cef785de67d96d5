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
from agent.adapters.nfnetlink import (
    ACK,
    NETFILTER,
    NFTABLES,
    REQUEST,
    attribute,
    error_number,
    generic,
    message,
    messages,
)
from agent.adapters.ruleset_dump import read_texts
from agent.errors import HafwError, UnavailableError
from agent.rules.objects import FAMILY, TABLES
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


INET, CREATE = 1, 0x400
NEW_TABLE, NEW_CHAIN = NFTABLES, NFTABLES | 3
BATCH_BEGIN, BATCH_END = 16, 17


def add(message_type: int, names: dict[int, bytes], userdata: int, comment: bytes) -> None:
    """To this network namespace, with a comment that nft itself would not make."""
    value = attribute(userdata, bytes((0, len(comment))) + comment)
    body = b"".join(attribute(*name) for name in names.items()) + value
    edge = bytes((0, 0)) + (NFTABLES >> 8).to_bytes(2, "big")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as asked:
        asked.send(
            message(BATCH_BEGIN, REQUEST, edge)
            + message(message_type, REQUEST | ACK | CREATE, generic(INET, body))
            + message(BATCH_END, REQUEST, edge)
        )
        ((_, _, _, content),) = messages(asked.recv(4096))
        assert error_number(content) == 0


def test_a_comment_that_would_be_commands_is_not_copied(copy: Namespace) -> None:
    copy.run("nft", "".join(f"add table {FAMILY} {name};" for name in TABLES))
    copy.run("nft", 'add table inet by-chain; add table inet plain { comment "a; b"; }')
    with copy.entered():
        add(NEW_TABLE, {1: b"by-table\0"}, 6, b'a"\n}\ntable inet evil {\n#\0')
        add(NEW_CHAIN, {1: b"by-chain\0", 3: b"c\0"}, 12, b'a"\n}\n}\ntable inet evil {\nchain c {\n#\0')
        texts = read_texts()
    with start_namespaces("other") as (other,):
        with other.entered():
            missing = texts.load()
        loaded = set(other.run("nft", "list", "tables").splitlines())
    assert set(missing) == {"inet by-table", "inet by-chain"}
    assert {f"table {FAMILY} {name}" for name in (*TABLES, "plain")} <= loaded
    assert not [name for name in loaded if "evil" in name or "by-" in name]
