# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent and the process that speaks with the peer say to each other, over a socket that keeps the
borders of messages (SOCK_SEQPACKET). Pure."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from agent.channel.messages import MAX_MESSAGE, MessageError

MAX_DATAGRAM = MAX_MESSAGE + 1024
MAX_KEY_FILE = 16 * 1024
"""So long may the key of the pair be, which is in the settings."""
MAX_ONCE = 64
"""Messages that are to be told once and wait for a path; the oldest of more is thrown away."""
ROOM_ONCE = MAX_ONCE // 2
"""With so many the agent waits. It has the newest count a moment late, and says more meanwhile."""
OTHER_KEY = "it has another key: on one of the nodes, hafw pair join the other one's"
"""Why a connection is refused of one that is the peer in all else."""
_MAX_REASON = 512


def join_command(node: str, key_file: object) -> str:
    """To be typed on the other node than `node`, which has the key."""
    return f"ssh root@{node} cat {key_file} | hafw pair join -"


@dataclass(frozen=True, slots=True)
class Path:
    """A way to the peer: from an own address to one of the peer's, both of the link of `interface`."""

    interface: str
    own: str
    peer: str


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """From the agent, the first word on a connection."""

    node: str
    peer: str
    pair: str
    key: str
    """What keys.parse_key() reads."""
    port: int
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """From the agent: this is to be told to the peer, in place of what was said of the same topic before.
    Of a topic without a message nothing is told any more."""

    topic: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Once:
    """From the agent: this is to be told once, by the first path that carries words; it may be lost. It
    says no more of these while ROOM_ONCE wait for a path."""

    message: bytes


@dataclass(frozen=True, slots=True)
class HeardFrom:
    """To the agent: what the peer has said by a path."""

    interface: str
    message: bytes


@dataclass(frozen=True, slots=True)
class PeerRefused:
    """To the agent: who spoke on a path, or was spoken to, is not the peer or does not keep to what was
    agreed."""

    interface: str
    reason: str


@dataclass(frozen=True, slots=True)
class Usable:
    """To the agent: its settings are in use. `waiting`: so many of what is to be told once."""

    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Unusable:
    """To the agent: why there can be no channel at all."""

    reason: str


Datagram = ChannelSettings | Tell | Once | HeardFrom | PeerRefused | Usable | Unusable


def pack(one: Datagram) -> bytes:
    match one:
        case ChannelSettings():
            return b"S" + json.dumps(asdict(one)).encode()
        case Tell():
            return b"T" + one.topic.encode() + b"\0" + one.message
        case Once():
            return b"1" + one.message
        case HeardFrom():
            return b"H" + one.interface.encode() + b"\0" + one.message
        case PeerRefused():
            return b"R" + one.interface.encode() + b"\0" + _shown(one.reason).encode()
        case Usable():
            return b"O%d" % one.waiting
        case Unusable():
            return b"U" + _shown(one.reason).encode()


def _shown(reason: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in reason[:_MAX_REASON])


def unpack(data: bytes) -> Datagram:
    """Raises MessageError for what pack() does not make."""
    try:
        return _read(data)
    except ValueError as error:
        raise MessageError(f"the other end of the local socket sent nonsense: {error}") from error


def _read(data: bytes) -> Datagram:
    kind, body = data[:1], data[1:]
    match kind:
        case b"S":
            return _read_settings(body)
        case b"T" | b"H" | b"R":
            head, end, rest = body.partition(b"\0")
            if not end:
                raise ValueError("no topic or interface")
            return _OF_HEAD[kind](head.decode("ascii"), rest)
        case b"1":
            return Once(body)
        case b"O":
            return Usable(_waiting(body))
        case b"U":
            return Unusable(_reason(body))
        case _:
            raise ValueError("no such kind")


def _waiting(data: bytes) -> int:
    if not data:
        return 0  # of an earlier version
    if len(data) > len(str(MAX_ONCE)) or not data.isdigit():
        raise ValueError("no count")
    return int(data)


def _reason(data: bytes) -> str:
    """It is recorded and printed."""
    text = data.decode()
    if len(text) > _MAX_REASON or not text.isprintable():
        raise ValueError("no reason")
    return text


_OF_HEAD: dict[bytes, Callable[[str, bytes], Datagram]] = {
    b"T": Tell,
    b"H": HeardFrom,
    b"R": lambda interface, rest: PeerRefused(interface, _reason(rest)),
}


def _read_settings(body: bytes) -> ChannelSettings:
    try:
        found = json.loads(body)
        paths = tuple(Path(**one) for one in found.pop("paths"))
        return ChannelSettings(paths=paths, **found)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("no settings") from error
