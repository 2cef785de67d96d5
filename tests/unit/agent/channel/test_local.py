# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent and the process that speaks for it say to each other."""

import pytest

from agent.channel.local import (
    ChannelSettings,
    Datagram,
    HeardFrom,
    Once,
    Path,
    PeerRefused,
    Tell,
    Unusable,
    Usable,
    pack,
    unpack,
)
from agent.channel.messages import MessageError

SETTINGS = ChannelSettings(
    "fw-1", "fw-2", "G1", "a key", 3781, (Path("eth2", "192.168.1.1", "192.168.1.2"), Path("eth0", "a", "b"))
)


@pytest.mark.parametrize(
    "one",
    [
        SETTINGS,
        Tell("status", b"\0any bytes"),
        Once(b"{}\0{}"),
        HeardFrom("eth2", b"{}\0{}"),
        PeerRefused("eth2", "a reason: ünd mehr"),
        Usable(),
        Usable(64),
        Unusable("no key"),
    ],
)
def test_what_is_packed_is_unpacked(one: Datagram) -> None:
    assert unpack(pack(one)) == one


def test_a_reason_of_any_length_fits() -> None:
    assert len(pack(Unusable("x" * 100_000))) < 1000
    assert unpack(pack(Unusable("a\x1bb\0c"))) == Unusable("a?b?c")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"H",
        b"Heth2",
        b"O-1",
        b"O100000",
        b"Tstatus",
        b"R\xff\0",
        b"S",
        b"S[]",
        b"S{}",
        b'S{"paths": 7}',
        b"U\xff",
        b"U\x1b[2J",
        b"U" + b"x" * 999,
        b"S" + b"[" * 99_999,
    ],
)
def test_what_is_never_packed_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError, match="nonsense"):
        unpack(data)
