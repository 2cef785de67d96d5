# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink's messages and attributes as bytes, and the header that netfilter puts before the attributes: the
one place that knows how they are laid out.

Hard facts
* A message and an attribute begin at a multiple of four bytes; their size counts the header, not the bytes
  that fill them up. One whose size is less than its header would be read forever.
* A message of netfilter's has four bytes before its attributes: the family, a version, two of a resource.
* An answer to a message with NLM_F_ACK is an error of number 0. A dump ends with a message of its own.
* The two upper bits of an attribute's type are flags: nested, and in network byte order.
"""

import errno
import struct
from collections.abc import Iterator

NETFILTER = 12
"""The part of the kernel (NETLINK_NETFILTER)."""
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ERROR, DONE, OVERRUN = 2, 3, 4
"""What a message is that is no answer."""
INTERRUPTED = 0x10
"""A flag: what is dumped has changed meanwhile."""
CONNTRACK, EXPECTATIONS, NFTABLES = 1 << 8, 2 << 8, 10 << 8
"""Netfilter's subsystems: the high byte of a message's type."""
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""Of nftables, as nft names them."""
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED, _TYPE = 0x8000, 0x3FFF

Attributes = dict[int, bytes]
Message = tuple[int, int, int, bytes]
"""Type, flags, the port of the program that has caused it (0: the kernel), and what follows."""


def message(message_type: int, flags: int, content: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(content), message_type, flags, 1, 0) + content


def messages(batch: bytes) -> Iterator[Message]:
    while len(batch) >= _HEADER.size:
        size, message_type, flags, _, port = _HEADER.unpack_from(batch)
        yield message_type, flags, port, batch[_HEADER.size : size]
        batch = batch[max(_HEADER.size, _filled(size)) :]


def error_number(content: bytes) -> int:
    """Of an ERROR or DONE; 0 is success."""
    return -int(struct.unpack_from("=i", content)[0]) if len(content) >= 4 else errno.EIO


def generic(family: int, body: bytes = b"") -> bytes:
    """Attributes, as netfilter wants them."""
    return _GENERIC.pack(family, 0, 0) + body


def of_generic(content: bytes) -> tuple[int, bytes]:
    """The family and the attributes of a message of netfilter's."""
    return content[0] if content else 0, content[_GENERIC.size :]


def parse_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, attribute_type = _ATTRIBUTE.unpack_from(data)
        yield attribute_type & _TYPE, data[_ATTRIBUTE.size : max(_ATTRIBUTE.size, size)]
        data = data[max(_ATTRIBUTE.size, _filled(size)) :]


def attribute(attribute_type: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), attribute_type) + value + bytes(-len(value) % 4)


def nest(attribute_type: int, *inside: bytes) -> bytes:
    return attribute(attribute_type | _NESTED, b"".join(inside))


def as_text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def as_number(value: bytes | None) -> int:
    """0 where there is none."""
    return int.from_bytes(value[:4], "big") if value else 0


def _filled(size: int) -> int:
    return (size + 3) & ~3
