# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink's bytes: what is packed is read back, and no bytes are read forever."""

import errno
import struct

import pytest

from agent.adapters import nfnetlink
from agent.adapters.nfnetlink import (
    attribute,
    error_number,
    generic,
    message,
    messages,
    nest,
    parse_attributes,
)
from tests.checkout import ROOT


def test_what_is_packed_is_read_back() -> None:
    inside = [(1, b"eth0\0"), (2, b""), (3, bytes(range(9)))]
    body = nest(4, *(attribute(*one) for one in inside)) + attribute(5, b"x")
    batch = message(nfnetlink.NFTABLES | 3, nfnetlink.REQUEST, generic(2, body)) + message(3, 0, bytes(4))
    (kind, flags, port, content), (last, *_) = messages(batch)
    assert (kind, flags, port, last) == (0xA03, 1, 0, nfnetlink.DONE)
    family, found = nfnetlink.of_generic(content)
    assert family == 2
    outer = dict(parse_attributes(found))
    assert set(outer) == {4, 5}
    assert list(parse_attributes(outer[4])) == inside


def test_a_size_that_is_too_small_or_too_large_ends_all_the_same() -> None:
    for size in (0, 3, 5, 1 << 31):
        assert len([*messages(struct.pack("=IHHII", size, 16, 0, 1, 0) * 2)]) <= 2
    for size in (0, 3, 5, 0xFFFF):
        assert len([*parse_attributes(struct.pack("=HH", size, 1) * 2)]) <= 2


@pytest.mark.parametrize("rest", range(16))
def test_what_is_cut_off_is_no_message(rest: int) -> None:
    assert [*messages(message(16, 0, b"")[:rest])] == []


def test_the_number_of_an_error() -> None:
    assert error_number(struct.pack("=i", 0)) == 0
    assert error_number(struct.pack("=i", -errno.ENOENT) + bytes(16)) == errno.ENOENT
    assert error_number(b"") == errno.EIO


def test_nobody_else_takes_netlink_apart() -> None:
    layouts = ("=IHHII", "=IH", "=HH")
    found = {
        path.name
        for path in (ROOT / "agent").rglob("*.py")
        if any(f'"{layout}' in path.read_text() for layout in layouts)
    }
    assert found == {"nfnetlink.py"}
