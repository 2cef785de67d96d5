# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agents of a pair say to each other, as bytes and as types. Pure; the one place that reads the
peer's bytes.

A message is one JSON object of MAX_MESSAGE bytes at the most, with its length before it in four bytes. What
a later version adds is a new key, which an earlier one skips, or a new kind, which it skips as a whole. What
a later version leaves out has a value here that says nothing. So a node understands the version before its
own and the one after it; what can no longer be understood needs another PROTOCOL.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of_class
from typing import cast

from agent.core.calls import MAX_PARTS, PART_BYTES, Ask, Reply
from agent.core.census import HASH_BYTES
from agent.core.comparison import (
    LIST_BYTES,
    MAX_LIST_PARTS,
    AskStates,
    StatesMessage,
    StatesPart,
    StatesRefused,
    StatesTouched,
)
from agent.core.facts import Misfit, NodeFacts
from agent.core.peer import Handover, HandoverStep, NodeStatus
from agent.core.roles import Role
from agent.errors import HafwError

PROTOCOL = 1
MAX_MESSAGE = 64 * 1024
LENGTH_BYTES = 4
_MAX_TEXT = 256
_MAX_ITEMS = 64
_MAX_SENTENCE = 512
_MAX_NUMBER = 1e15


class MessageError(HafwError):
    """What the peer sent is not what it may send."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of either side of a connection. `protocols`: the lowest and the highest that it
    speaks."""

    node: str
    pair: str
    protocols: tuple[int, int] = (PROTOCOL, PROTOCOL)


PeerMessage = Hello | NodeStatus | NodeFacts | Ask | Reply | StatesMessage


def encode(message: PeerMessage) -> bytes:
    """Without the length. Raises MessageError when it is too long."""
    data = json.dumps(_fields(message), separators=(",", ":")).encode()
    if len(data) > MAX_MESSAGE:
        raise MessageError(f"a message of {len(data)} bytes is longer than {MAX_MESSAGE}")
    return data


def decode(data: bytes) -> PeerMessage | None:
    """None for a kind that a later version may have. Raises MessageError for all else that is no message."""
    if len(data) > MAX_MESSAGE:
        raise MessageError(f"a message of {len(data)} bytes is longer than {MAX_MESSAGE}")
    try:
        found = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError("a message is not JSON") from error
    if not isinstance(found, dict):
        raise MessageError("a message is not an object")
    fields = _Fields(found)
    match fields.text("kind"):
        case "hello":
            lowest, highest = fields.integer("lowest"), fields.integer("highest")
            return Hello(fields.text("node"), fields.text("pair"), (lowest, highest))
        case "status":
            return _read_status(fields)
        case "ask":
            return Ask(
                fields.text("call"),
                fields.part("part"),
                fields.part("parts"),
                fields.data("data", PART_BYTES),
            )
        case "reply":
            answer = fields.data("data", PART_BYTES) if fields.has("data") else None
            return Reply(fields.text("call"), fields.part("taken"), answer, fields.flag("busy") is True)
        case "facts":
            return _read_facts(fields)
        case "states-ask":
            return AskStates(fields.integer("number"))
        case "states-part":
            return _read_part(fields)
        case "states-touched":
            return StatesTouched(fields.integer("number"), fields.integer("count"))
        case "states-refused":
            return StatesRefused(fields.integer("number"), fields.text("reason"))
        case _:
            return None


def _fields(message: PeerMessage) -> dict[str, object]:
    match message:
        case Hello():
            lowest, highest = message.protocols
            return {
                "kind": "hello",
                "node": message.node,
                "pair": message.pair,
                "lowest": lowest,
                "highest": highest,
            }
        case NodeStatus():
            return {
                "kind": "status",
                "role": message.role.value,
                "role_s": message.role_s,
                "gate_open": message.gate_open,
                "clock_s": message.clock_s,
                "ready": message.ready,
                "problems": list(message.problems),
                "keepalived": list(message.keepalived),
                "states": dict(message.states),
                "pair_file": message.pair_file,
                "rules": message.rules,
                "generation": message.generation,
                "versions": dict(message.versions),
                "heard": list(message.heard),
                "ceased_s": message.ceased_s,
                "served_s": message.served_s,
                "compares": message.compares,
                "handover": _handover_fields(message.handover),
                "maintenance": message.maintenance,
                "sets_lost": message.sets_lost,
                "sets_differ": _cut(message.sets_differ, _MAX_TEXT),
            }
        case Ask():
            return {
                "kind": "ask",
                "call": message.call,
                "part": message.part,
                "parts": message.parts,
                "data": base64.b64encode(message.data).decode(),
            }
        case Reply():
            data = base64.b64encode(message.data).decode() if message.data is not None else None
            return {
                "kind": "reply",
                "call": message.call,
                "taken": message.taken,
                "data": data,
                "busy": message.busy,
            }
        case NodeFacts():
            return {
                "kind": "facts",
                "equal": {
                    _cut(name, _MAX_TEXT): _cut(text, _MAX_TEXT) for name, text in message.equal.items()
                },
                "misfits": [
                    [_cut(part, _MAX_SENTENCE) for part in (one.what, one.text, one.command)]
                    for one in message.misfits
                ],
                "more": message.more,
            }
        case _:
            return _fields_of_states(message)


def _fields_of_states(message: StatesMessage) -> dict[str, object]:
    match message:
        case AskStates():
            return {"kind": "states-ask", "number": message.number}
        case StatesPart():
            return {
                "kind": "states-part",
                "number": message.number,
                "part": message.part,
                "parts": message.parts,
                "hashes": base64.b64encode(message.hashes).decode(),
                "per_second": message.per_second,
                "protocols": dict(message.protocols),
            }
        case StatesTouched():
            return {"kind": "states-touched", "number": message.number, "count": message.count}
        case StatesRefused():
            return {"kind": "states-refused", "number": message.number, "reason": message.reason}


def _read_part(fields: "_Fields") -> StatesPart:
    part, parts = fields.integer("part"), fields.integer("parts")
    if not part < parts <= MAX_LIST_PARTS:
        raise MessageError("a part of a message is none")
    return StatesPart(
        number=fields.integer("number"),
        part=part,
        parts=parts,
        hashes=fields.hashes("hashes"),
        per_second=fields.integer("per_second"),
        protocols=fields.counts("protocols"),
    )


def _handover_fields(one: Handover | None) -> dict[str, object] | None:
    return {"id": one.identity, "step": one.step.value, "reason": one.reason} if one else None


def _read_status(fields: "_Fields") -> NodeStatus:
    return NodeStatus(
        role=_role_of(fields.text("role")),
        role_s=fields.number("role_s"),
        gate_open=fields.flag("gate_open") is True,
        clock_s=fields.number("clock_s"),
        ready=fields.flag("ready"),
        problems=fields.texts("problems"),
        keepalived=fields.texts("keepalived"),
        states=fields.counts("states"),
        pair_file=fields.text("pair_file", ""),
        rules=fields.text("rules", ""),
        generation=fields.count("generation"),
        versions=fields.names("versions"),
        heard=fields.texts("heard"),
        ceased_s=fields.perhaps("ceased_s"),
        served_s=fields.perhaps("served_s"),
        compares=fields.flag("compares") is True,
        handover=_read_handover(fields.fields("handover")),
        maintenance=fields.text("maintenance", ""),
        sets_lost=fields.flag("sets_lost") is True,
        sets_differ=fields.text("sets_differ", ""),
    )


def _read_handover(fields: "_Fields | None") -> Handover | None:
    """A step of a later version is none that we know."""
    if fields is None:
        return None
    identity, step, reason = fields.text("id"), fields.text("step"), fields.text("reason", "")
    known = {one.value: one for one in HandoverStep}
    return Handover(identity, known[step], reason) if step in known else None


def _read_facts(fields: "_Fields") -> NodeFacts:
    misfits = tuple(Misfit(*row) for row in fields.rows("misfits", len(fields_of_class(Misfit))))
    return NodeFacts(fields.names("equal"), misfits, fields.count("more") or 0)


def _cut(text: str, longest: int) -> str:
    """Printable ASCII, which no encoding makes longer."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return "".join(one if one.isprintable() else "?" for one in plain)[:longest]


def _role_of(name: str) -> Role:
    """A role of a later version is none that we know."""
    try:
        return Role(name)
    except ValueError:
        return Role.UNKNOWN


class _Fields:
    """Of one message, each checked where it is read. A key that is not there, or null, has its default."""

    def __init__(self, found: Mapping[str, object]) -> None:
        self._found = found

    def text(self, key: str, default: str | None = None) -> str:
        return _text(key, self._get(key, default))

    def number(self, key: str) -> float:
        found = self._get(key)
        if isinstance(found, bool) or not isinstance(found, int | float) or not _is_sane(found):
            raise MessageError(f"`{key}` of a message is not a number")
        return float(found)

    def perhaps(self, key: str) -> float | None:
        return None if self._found.get(key) is None else self.number(key)

    def integer(self, key: str) -> int:
        return _count(key, self._get(key))

    def count(self, key: str) -> int | None:
        found = self._found.get(key)
        return None if found is None else _count(key, found)

    def has(self, key: str) -> bool:
        return self._found.get(key) is not None

    def part(self, key: str) -> int:
        found = self.integer(key)
        if found > MAX_PARTS:
            raise MessageError(f"`{key}` of a message is more than {MAX_PARTS}")
        return found

    def data(self, key: str, max_bytes: int) -> bytes:
        found = self._get(key)
        try:
            data = base64.b64decode(found, validate=True) if isinstance(found, str) else None
        except ValueError:  # of other letters than those of base64 as well
            data = None
        if data is None or len(data) > max_bytes:
            raise MessageError(f"`{key}` of a message is not base64 of at most {max_bytes} bytes")
        return data

    def flag(self, key: str) -> bool | None:
        found = self._found.get(key)
        if found is not None and not isinstance(found, bool):
            raise MessageError(f"`{key}` of a message is neither true nor false")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        found = self._get(key, [])
        if not isinstance(found, list) or len(found) > _MAX_ITEMS:
            raise MessageError(f"`{key}` of a message is not a short list")
        return tuple(_text(key, one) for one in found)

    def rows(self, key: str, width: int) -> tuple[tuple[str, ...], ...]:
        """A list of lists of `width` sentences."""
        found = self._get(key, [])
        if not isinstance(found, list) or len(found) > _MAX_ITEMS:
            raise MessageError(f"`{key}` of a message is not a short list")
        if not all(isinstance(row, list) and len(row) == width for row in found):
            raise MessageError(f"`{key}` of a message is not a list of {width} texts each")
        return tuple(tuple(_text(key, one, _MAX_SENTENCE) for one in row) for row in found)

    def fields(self, key: str) -> "_Fields | None":
        found = self._found.get(key)
        if found is not None and not isinstance(found, dict):
            raise MessageError(f"`{key}` of a message is not an object")
        return None if found is None else _Fields(found)

    def counts(self, key: str) -> dict[str, int]:
        return {_text(key, name): _count(key, one) for name, one in self._items(key)}

    def hashes(self, key: str) -> bytes:
        data = self.data(key, LIST_BYTES)
        if len(data) % HASH_BYTES:
            raise MessageError(f"`{key}` of a message are no hashes")
        return data

    def names(self, key: str) -> dict[str, str]:
        return {_text(key, name): _text(key, one) for name, one in self._items(key)}

    def _items(self, key: str) -> tuple[tuple[str, object], ...]:
        found = self._get(key, {})
        if not isinstance(found, dict) or len(found) > _MAX_ITEMS:
            raise MessageError(f"`{key}` of a message is not a small object")
        return tuple(cast(dict[str, object], found).items())

    def _get(self, key: str, default: object = None) -> object:
        found = self._found.get(key)
        found = default if found is None else found
        if found is None:
            raise MessageError(f"a message has no `{key}`")
        return found


def _text(key: str, found: object, longest: int = _MAX_TEXT) -> str:
    """It is printed, and recorded."""
    if not isinstance(found, str) or len(found) > longest or not found.isprintable():
        raise MessageError(f"`{key}` of a message is not a short text")
    return found


def _count(key: str, found: object) -> int:
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _MAX_NUMBER:
        raise MessageError(f"`{key}` of a message is not a count")
    return found


def _is_sane(found: float) -> bool:
    return abs(found) <= _MAX_NUMBER and math.isfinite(found)  # a large integer is no float


def _refuse_constant(name: str) -> object:
    raise ValueError(name)
