# SPDX-License-Identifier: GPL-2.0-or-later
"""What conntrackd lets fall of expectations: translations on the new primary, and on the old one those that
came before their connection.

Hard facts (conntrackd 1.4.7 with libnetfilter_conntrack 1.0.9, read off the wire and off its system calls;
what is said of conntrackd's events is in its source, also in that of 1.4.8)
* The primary sends how an announced connection is to be translated, `nat-follow-master` and the port. The
  backup receives it and leaves it out of what it gives to its kernel, in both modes. FTP in active mode and
  SIP's media then reach the new primary itself, which answers with a reset.
* It can be derived: the announced connection goes to the place where the translated end of its master is to
  be found, and a helper keeps the port unless another announcement has it.
* Completed earlier, on a backup, the new expectation would be replicated back over the good one.
* conntrackd skips an expectation whose master it does not know when it hears of it. An expectation
  made by the first packet of a connection is reported before the connection: it is never replicated.
* Nor does conntrackd give the class to its kernel, where each master may have one expectation without it: of
  the ports that a SIP call announces the last one stays. The call's next message announces them again.
* The kernel reports an expectation when it is made and when it goes, and never again: only one that is made
  again is reported again. `conntrackd -R` reads it, but sends nothing; `-B` would send every state.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from agent.adapters.ctnetlink import Conntrack
from agent.adapters.nfnetlink import (
    ACK,
    CONNTRACK,
    DUMP,
    EXPECTATIONS,
    REQUEST,
    Attributes,
    attribute,
    nest,
    parse_attributes,
)
from agent.core.actions import Completed
from agent.errors import UnavailableError

_MSG_NEW, _MSG_GET, _MSG_DELETE = 0, 1, 2
_CREATE_NEW = 0x600
_MASTER, _TUPLE, _MASK, _TIMEOUT, _HELPER, _FLAGS, _CLASS, _NAT, _FUNCTION = 1, 2, 3, 4, 6, 8, 9, 10, 11
_NESTS = (_MASTER, _TUPLE, _MASK)
_KEPT = (_TIMEOUT, _FLAGS, _CLASS, _HELPER)
_FOLLOW_MASTER = b"nat-follow-master\0"
_ORIGINAL, _REPLY = 0, 1
_ANNOUNCE_LIMIT_S = 0.01
"""Within the loop's turn."""


@dataclass(frozen=True, slots=True)
class End:
    address: bytes
    port: bytes


@dataclass(frozen=True, slots=True)
class Way:
    """A tuple: from where to where."""

    protocol: int
    source: End
    target: End


@dataclass(frozen=True, slots=True)
class Translation:
    """`direction` is that of the announced connection, seen from its master; `port` where it really goes."""

    direction: int
    port: bytes


def find_translation(expected: Way, there: Way, back: Way) -> Translation | None:
    """How the kernel would translate `expected`, whose master goes `there` and comes `back`; None when it
    goes to no translated end of the master."""
    if back.target.address == expected.target.address != there.source.address:
        same = back.target.port == expected.target.port
        return Translation(_REPLY, there.source.port if same else expected.target.port)
    if there.target.address == expected.target.address != back.source.address:
        return Translation(_ORIGINAL, expected.target.port)
    return None


def complete_expectations(limit_s: float, is_over: Callable[[], bool]) -> Completed:
    """Gives every expectation of this network namespace the translation that it lacks, until `limit_s` has
    passed or `is_over`. Raises UnavailableError."""
    tracking = Conntrack(limit_s=limit_s)
    try:
        return complete_all(tracking, is_over)
    finally:
        tracking.close()


def complete_all(tracking: Conntrack, is_cancelled: Callable[[], bool]) -> Completed:
    completed = 0

    def is_over() -> bool:
        return tracking.is_late or is_cancelled()

    try:
        incomplete = []
        for family, body in tracking.dump(EXPECTATIONS | _MSG_GET, REQUEST | DUMP):
            found = dict(parse_attributes(body))
            if _NAT not in found and {*_NESTS, _HELPER} <= found.keys():
                incomplete.append((family, found))
            if is_over():
                return Completed(completed, all_seen=False)
        for family, found in incomplete:
            if is_over():
                return Completed(completed, all_seen=False)
            completed += _complete(tracking, family, found)
    except UnavailableError:
        if not is_over():
            raise
        return Completed(completed, all_seen=False)
    return Completed(completed, all_seen=True)


def _complete(tracking: Conntrack, family: int, found: Attributes) -> bool:
    """False when it needs nothing or is gone meanwhile."""
    answer = tracking.ask(CONNTRACK | _MSG_GET, family, nest(_MASTER, found[_MASTER]), REQUEST)
    if answer is None:
        return False
    master = dict(parse_attributes(answer))
    translation = find_translation(_read_way(found[_TUPLE]), _read_way(master[1]), _read_way(master[2]))
    if translation is None:
        return False
    nat = _nat(family, _read_way(found[_TUPLE]).protocol, translation)
    return _recreate(tracking, family, found, nat + attribute(_FUNCTION, _FOLLOW_MASTER))


def announce_again(family: int, expected: bytes) -> bool:
    """Has the kernel report once more the expectation with this tuple, whose master is known by now; False
    when it has been used or is gone. What is expected in the microseconds between is not let in: wait until
    the answer is late anyway. Nothing is raised: the next failover may cost an announced connection."""
    try:
        tracking = Conntrack(limit_s=_ANNOUNCE_LIMIT_S)
    except UnavailableError:
        return False
    try:
        return _announce_again(tracking, family, expected)
    except UnavailableError:
        return False
    finally:
        tracking.close()


def _announce_again(tracking: Conntrack, family: int, expected: bytes) -> bool:
    answer = tracking.ask(EXPECTATIONS | _MSG_GET, family, nest(_TUPLE, expected), REQUEST)
    if answer is None:
        return False
    found = dict(parse_attributes(answer))
    if any(found.get(_CLASS, b"")):
        return False  # the peer would keep one of several, and here the helper would read all of the voice
    # without its master the kernel would not take it back
    if tracking.ask(CONNTRACK | _MSG_GET, family, nest(_MASTER, found[_MASTER]), REQUEST) is None:
        return False
    nat = nest(_NAT, found[_NAT]) if _NAT in found else b""
    function = attribute(_FUNCTION, found[_FUNCTION]) if _FUNCTION in found else b""
    return _recreate(tracking, family, found, nat + function)


def _recreate(tracking: Conntrack, family: int, found: Attributes, further: bytes) -> bool:
    """The kernel changes no expectation. One that was used meanwhile stays gone: it is good for once."""
    if tracking.ask(EXPECTATIONS | _MSG_DELETE, family, nest(_TUPLE, found[_TUPLE]), REQUEST | ACK) is None:
        return False
    body = b"".join(nest(kind, found[kind]) for kind in _NESTS)
    body += b"".join(attribute(kind, found[kind]) for kind in _KEPT if kind in found)
    return (
        tracking.ask(EXPECTATIONS | _MSG_NEW, family, body + further, REQUEST | ACK | _CREATE_NEW)
        is not None
    )


def _nat(family: int, protocol: int, translation: Translation) -> bytes:
    kinds, nowhere = ((1, 2), bytes(4)) if family == socket.AF_INET else ((3, 4), bytes(16))
    ends = b"".join(attribute(kind, nowhere) for kind in kinds)
    ports = attribute(1, bytes([protocol])) + attribute(2, translation.port) + attribute(3, bytes(2))
    direction = attribute(1, struct.pack("!I", translation.direction))
    return nest(_NAT, direction + nest(2, nest(1, ends) + nest(2, ports)))


def _read_way(data: bytes) -> Way:
    parts = dict(parse_attributes(data))
    addresses, ports = dict(parse_attributes(parts[1])), dict(parse_attributes(parts[2]))
    source, target = (addresses.get(old) or addresses.get(new, b"") for old, new in ((1, 3), (2, 4)))
    return Way(ports[1][0], End(source, ports.get(2, b"")), End(target, ports.get(3, b"")))
