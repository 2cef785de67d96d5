# SPDX-License-Identifier: GPL-2.0-or-later
"""The header of a D-Bus message: how long the message is and whose, from its first bytes. Pure.

Hard facts (D-Bus specification; dbus-daemon 1.14)
* Sixteen bytes: byte order, type, flags, version, length of the body, serial, length of the fields. Then the
  fields, each at a multiple of 8, then the body, again at a multiple of 8. 128 MiB in all at the most.
* The bus itself writes the sender's unique name into each message that it passes on, whatever the sender has
  put there, and passes on none that has a field twice.
* Every field that the specification knows is a string, a signature or a number. Of another one only its
  own type tells how long it is, and that may be nested as deep as its sender likes: not read here.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

FIXED = 16
MAX_WHOLE = 1 << 27
_ORDERS = {ord("l"): "<", ord("B"): ">"}
_LENGTHS = {byte: struct.Struct(f"{order}3xB III") for byte, order in _ORDERS.items()}
_MEMBER, _SENDER, _SIGNATURE = 3, 7, 8


class ForeignError(Exception):
    """These bytes are not D-Bus, or not as the bus writes it."""


class Size(NamedTuple):  # made for each message of a flood, and a dataclass takes three times as long
    order: str
    """As struct has it."""
    head: int
    """With the fixed part and the padding before the body."""
    whole: int


@dataclass(frozen=True, slots=True)
class Header:
    """What is not there is empty."""

    sender: str
    member: str
    signature: str


def read_size(data: bytes, at: int) -> Size:
    """Of the message that begins at `at`, from its FIXED first bytes. Raises ForeignError."""
    order = data[at]
    if order not in _LENGTHS:
        raise ForeignError
    version, body, _, fields = _LENGTHS[order].unpack_from(data, at)
    head = FIXED + (fields + 7 & ~7)
    if version != 1 or head + body > MAX_WHOLE:
        raise ForeignError
    return Size(_ORDERS[order], head, head + body)


def read_header(data: bytes, at: int, end: int, order: str) -> Header:
    """What can be read of it before `end`: up to the first field that the specification does not know."""
    found: dict[int, str] = {}
    place = at + FIXED
    while True:
        place += -(place - at) & 7
        if end - place < 8 or data[place] in found:
            break
        kind, value = data[place + 1 : place + 4], place + 4
        if kind == b"\1u\0":
            place = value + 4
            continue
        if kind == b"\1g\0":
            length, text = data[value], value + 1
        elif kind in (b"\1s\0", b"\1o\0"):
            length, text = *struct.unpack_from(f"{order}I", data, value), value + 4
        else:
            break
        if text + length >= end:
            break
        found[data[place]] = data[text : text + length].decode(errors="replace")
        place = text + length + 1
    return Header(*(found.get(field, "") for field in (_SENDER, _MEMBER, _SIGNATURE)))


def pattern_of(senders: Iterable[str]) -> re.Pattern[bytes]:
    """What is in the header of every message from one of `senders`. It may stand in that of another
    sender as well, in a field of another kind."""
    names = [sender.encode() for sender in senders if sender]
    lengths = [(name, struct.pack(f"{order}I", len(name))) for name in names for order in _ORDERS.values()]
    fields = (re.escape(bytes((_SENDER,)) + b"\1s\0" + length + name + b"\0") for name, length in lengths)
    return re.compile(b"|".join(fields))


def read_strings(data: bytes, order: str, count: int) -> tuple[str, ...]:
    """A body that has so many strings and nothing else. Raises ForeignError."""
    found = []
    place = 0
    for _ in range(count):
        place += -place & 3
        if len(data) - place < 5:
            raise ForeignError
        (length,) = struct.unpack_from(f"{order}I", data, place)
        if place + 4 + length >= len(data):
            raise ForeignError
        found.append(data[place + 4 : place + 4 + length].decode(errors="replace"))
        place += 5 + length
    if place != len(data):
        raise ForeignError
    return tuple(found)
