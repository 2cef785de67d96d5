# SPDX-License-Identifier: GPL-2.0-or-later
"""What of the bus reaches the library, byte by byte."""

import random
import struct

import pytest
from dbus_next import Variant
from dbus_next._private.marshaller import Marshaller

from agent.adapters.bus_gate import BUS, MAX_MESSAGE, Sieve
from agent.adapters.bus_header import FIXED, ForeignError, read_strings

KEEPALIVED, STRANGER, SQUATTER = ":1.7", ":1.99", ":1.42"
NAME = "org.keepalived.Vrrp1"


class Ear:
    def __init__(self) -> None:
        self.refused: list[str] = []
        self.owners: list[str] = []
        self.sieve = Sieve(self.refused.append, self.owners.append, NAME)
        self.sieve.admit(KEEPALIVED, SQUATTER)

    def hear(self, data: bytes, portion: int = 1 << 16) -> bytes:
        return b"".join(self.sieve.feed(data[at : at + portion]) for at in range(0, len(data), portion))


def text_field(code: int, text: str, order: str = "<", kind: bytes = b"s") -> bytes:
    length = struct.pack(f"{order}I", len(text))
    return bytes((code, 1)) + kind + b"\0" + length + text.encode() + b"\0"


def sender_field(sender: str, order: str = "<") -> bytes:
    return text_field(7, sender, order)


def by_hand(*fields: bytes, body: bytes = b"", order: str = "<") -> bytes:
    """A message with any fields; the libraries write no sender, that is for the bus to do."""
    padded = b"".join(one + bytes(-len(one) % 8) for one in fields[:-1]) + fields[-1]
    mark = b"l" if order == "<" else b"B"
    fixed = mark + struct.pack(f"{order}BBBIII", 4, 1, 1, len(body), 9, len(padded))
    return fixed + padded + bytes(-len(padded) % 8) + body


def signal(sender: str, signature: str = "u", body: object = 2, member: str = "VrrpStatusChange") -> bytes:
    values = body if isinstance(body, list) else [body]
    marshalled = Marshaller(signature, values).marshall()
    return by_hand(
        text_field(1, "/org/keepalived/Vrrp1/Instance/eth0/62/IPv4", kind=b"o"),
        text_field(2, "org.keepalived.Vrrp1.Instance"),
        text_field(3, member),
        text_field(6, ":1.3"),
        sender_field(sender),
        b"\10\1g\0" + bytes((len(signature),)) + signature.encode() + b"\0",
        body=bytes(marshalled),
    )


@pytest.mark.parametrize("portion", [1, 7, 100, 1 << 16])
def test_only_keepalived_and_the_bus_come_through_however_it_is_cut(portion: int) -> None:
    ear = Ear()
    wanted = [signal(KEEPALIVED), signal(BUS, "s", ":1.3", "NameAcquired"), signal(KEEPALIVED, "uu", [2, 3])]
    strange = [signal(STRANGER), signal(STRANGER, "as", [["x" * 5000] * 40]), signal(SQUATTER)]
    mixed = [one for two in zip(wanted, strange, strict=True) for one in two]
    assert ear.hear(b"".join(mixed), portion) == b"".join(wanted)
    assert ear.refused == [f"a VrrpStatusChange from {STRANGER}, which is not keepalived"] * 2


def test_another_byte_order_is_read_as_well() -> None:
    ear = Ear()
    good = by_hand(sender_field(KEEPALIVED, ">"), order=">")
    assert ear.hear(by_hand(sender_field(STRANGER, ">"), body=bytes(70_000), order=">") + good) == good
    assert ear.refused == [f"a message on the bus from {STRANGER}, which is not keepalived"]


@pytest.mark.parametrize(
    "before",
    [
        b"\3\1s\0" + struct.pack("<I", 17) + sender_field(KEEPALIVED),
        b"\xc8\2ay\0" + bytes(3) + struct.pack("<I", 17) + sender_field(KEEPALIVED),
        b"\xc8\1v\0" + b"\1v\0" * 60,
        b"\2\1s\0" + struct.pack("<I", 2**32 - 1) + sender_field(KEEPALIVED),
    ],
    ids=["in a string", "in a field of its own", "after nesting", "a length of 4 GiB"],
)
def test_keepalived_is_not_imitated_by_another_field(before: bytes) -> None:
    ear = Ear()
    forged = by_hand(before, sender_field(STRANGER))
    assert ear.hear(forged + signal(KEEPALIVED)) == signal(KEEPALIVED)
    assert len(ear.refused) == 1


def test_a_message_too_long_is_not_for_us_whoever_sends_it() -> None:
    ear = Ear()
    large = signal(KEEPALIVED, "s", "x" * MAX_MESSAGE)
    assert ear.hear(large + signal(KEEPALIVED)) == signal(KEEPALIVED)
    assert ear.refused == [f"a message of {len(large)} bytes from {KEEPALIVED} on the bus"]


def test_what_is_thrown_away_is_not_held() -> None:
    ear = Ear()
    large = signal(STRANGER, "ay", [bytes(1 << 20)])
    for at in range(0, len(large), 1000):
        assert ear.sieve.feed(large[at : at + 1000]) == b""
        assert len(ear.sieve._held) < 1000, "the header that it waited for"
    half = by_hand(sender_field(STRANGER))[:FIXED] + bytes(3)
    ear.hear(half)
    assert len(ear.sieve._held) < MAX_MESSAGE


def test_a_flood_costs_no_more_than_a_few_looks_at_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear()
    looks = 0
    real = Sieve.feed.__globals__["read_header"]

    def count(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return real(*arguments)

    monkeypatch.setitem(Sieve.feed.__globals__, "read_header", count)
    ear.sieve.feed(signal(STRANGER) * 500)
    assert len(ear.refused) == 500
    assert looks < 20


def test_the_owner_is_known_before_its_next_word() -> None:
    ear = Ear()

    def owner_changed(name: str, owner: str) -> bytes:
        return signal(BUS, "sss", [name, "", owner], "NameOwnerChanged")

    ear.sieve._on_owner = lambda owner: ear.sieve.admit(owner, "")
    assert ear.hear(owner_changed("org.example", STRANGER) + signal(STRANGER)) == b""
    assert ear.hear(owner_changed(NAME, STRANGER) + signal(STRANGER)) == signal(STRANGER)
    forged = signal(SQUATTER, "sss", [NAME, "", SQUATTER], "NameOwnerChanged")
    assert ear.hear(forged + signal(SQUATTER)) == b""


@pytest.mark.parametrize("data", [b"\xff" * 64, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"l" + b"\xff" * 63])
def test_what_is_not_the_bus_is_given_up(data: bytes) -> None:
    with pytest.raises(ForeignError):
        Ear().hear(data)


def test_garbage_of_every_kind_is_refused_in_one_way() -> None:
    chance = random.Random(18)
    good = signal(BUS, "sss", [NAME, "", STRANGER], "NameOwnerChanged") + signal(
        KEEPALIVED, "v", [Variant("(us)", [2, "Master"])]
    )
    for _ in range(3000):
        broken = bytearray(good * 2)
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        ear = Ear()
        try:
            ear.hear(bytes(broken), chance.choice((11, 1 << 16)))
        except ForeignError:
            continue


@pytest.mark.parametrize("data", [b"", b"\1", b"\xff\xff\xff\xff\0", b"\1\0\0\0x", b"\0\0\0\0\0", bytes(14)])
def test_strings_that_break_off_or_are_of_another_number_are_none(data: bytes) -> None:
    with pytest.raises(ForeignError):
        read_strings(data, "<", 2)
    assert read_strings(b"\1\0\0\0x\0\0\0" + bytes(5), "<", 2) == ("x", "")
