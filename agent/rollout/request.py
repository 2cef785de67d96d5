# SPDX-License-Identifier: GPL-2.0-or-later
"""What one node asks the other to do, above all with its rules, and what that answers: as bytes and types.
Pure.

The bytes come from the other node, which is known, and are read as if it were not: bounded, and every field
checked. What a later version adds is skipped; a verb that is not known here is answered with an error.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum

from agent.config.files import MAX_ALL_BYTES, MAX_FILES, NAME, Files
from agent.errors import HafwError
from agent.plain_address import read_plain_address
from agent.rollout.generations import LAST_NUMBER

MAX_REQUEST = 2 * MAX_ALL_BYTES + (64 << 10)
"""Unpacked; JSON makes two bytes of a quote."""
LONGEST_CONFIRM_S = 86_400
MAX_ELEMENTS = 1000
MAX_AHEAD = 1000
"""So much higher than its own may a node's numbers of generations be than the other one's."""
_MAX_TEXT = 4096


class RequestError(HafwError):
    """What the other node sent is no request, or no answer."""


class RulesVerb(Enum):
    CHECK = "check"
    """Would these files be taken? Changes nothing."""
    APPLY = "apply"
    CONFIRM = "confirm"
    """Generation `number` stays, if it waits for its confirmation."""
    BACK = "back"
    """Generation `number` goes, if it waits for its confirmation."""
    CUT = "cut"
    """End the connections that the rules in force do not allow."""
    ADD = "add"
    """`elements` to the dynamic set `set_name`."""
    DELETE = "delete"
    REACH = "reach"
    """Does nothing: it can be asked to hand over."""
    HAND_OVER = "hand over"
    """As `hafw handover` there, without force."""


@dataclass(frozen=True, slots=True)
class Request:
    """`who`: for the notes of the generations. `number`: of the generation that is made or meant."""

    verb: RulesVerb
    who: str
    number: int = 0
    files: Files = ()
    confirm_s: int | None = None
    why: str = "apply"
    set_name: str = ""
    elements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RulesAnswer:
    """`newest`: the highest number of a generation there. `same`: its newest generation has the files asked
    about, and is in force. `waits`: the generation that waits for its confirmation now, or has until now.
    `ended`: connections that were ended. `text`: of a handover, which took so long; for `gap_ms` no node had
    the addresses."""

    error: str | None = None
    newest: int = 0
    same: bool = False
    waits: int | None = None
    rules: str = ""
    ended: int | None = None
    text: str = ""
    took_ms: int | None = None
    gap_ms: int | None = None


def pack_request(request: Request) -> bytes:
    return _pack({**asdict(request), "verb": request.verb.value})


def pack_answer(answer: RulesAnswer) -> bytes:
    return _pack(asdict(answer))


def unpack_request(data: bytes) -> Request:
    """Raises RequestError."""
    found = _unpack(data)
    name = _text(found, "verb")
    try:
        verb = RulesVerb(name)
    except ValueError:
        raise RequestError(
            f"this version of hafw cannot {name!a} for the other node", "upgrade it"
        ) from None
    confirm_s, files = found.get("confirm_s"), _files(found.get("files", []))
    if verb in (RulesVerb.CHECK, RulesVerb.APPLY) and not files:
        raise RequestError("the other node sent no pair file")
    return Request(
        verb,
        _text(found, "who"),
        _number(found, "number", LAST_NUMBER),
        files,
        None if confirm_s is None else _number(found, "confirm_s", LONGEST_CONFIRM_S),
        _text(found, "why"),
        _text(found, "set_name") if "set_name" in found else "",
        _elements(found.get("elements", [])),
    )


def unpack_answer(data: bytes) -> RulesAnswer:
    """Raises RequestError."""
    found = _unpack(data)
    error, waits, ended = found.get("error"), found.get("waits"), found.get("ended")
    return RulesAnswer(
        None if error is None else _text(found, "error"),
        _number(found, "newest", LAST_NUMBER),
        found.get("same") is True,
        None if waits is None else _number(found, "waits", LAST_NUMBER),
        _text(found, "rules"),
        None if ended is None else _number(found, "ended", 1 << 40),
        _text(found, "text") if "text" in found else "",
        *(None if found.get(key) is None else _number(found, key, 1 << 40) for key in ("took_ms", "gap_ms")),
    )


def _pack(found: Mapping[str, object]) -> bytes:
    return zlib.compress(json.dumps(found).encode())


def _unpack(data: bytes) -> dict[str, object]:
    try:
        opened = zlib.decompressobj()
        text = opened.decompress(data, MAX_REQUEST)
        if not opened.eof:
            raise RequestError("what the other node sent is cut off, or too long")
        found = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise RequestError("what the other node sent is not packed JSON") from error
    if not isinstance(found, dict):
        raise RequestError("what the other node sent is not an object")
    return found


def _text(found: Mapping[str, object], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise RequestError(f"`{key}` of what the other node sent is not a short text")
    return value


def _number(found: Mapping[str, object], key: str, highest: int) -> int:
    value = found.get(key)
    if type(value) is not int or not 0 <= value <= highest:
        raise RequestError(f"`{key}` of what the other node sent is not a number up to {highest}")
    return value


def _elements(found: object) -> tuple[str, ...]:
    """Addresses, as they are written."""
    if not isinstance(found, list) or len(found) > MAX_ELEMENTS:
        raise RequestError("`elements` of what the other node sent is not a list of addresses")
    try:
        return tuple(str(read_plain_address(one)) for one in found if isinstance(one, str))
    except ValueError as error:
        raise RequestError(f"`elements` of what the other node sent: {error}") from error


def _files(found: object) -> Files:
    """The included ones are below the directory of the pair file."""
    if not isinstance(found, list) or len(found) > MAX_FILES + 1:
        raise RequestError("`files` of what the other node sent is not a list of files")
    files = tuple(_file(one) for one in found)
    try:
        "".join(text for one in files for text in one).encode()
    except UnicodeError as error:
        raise RequestError("`files` of what the other node sent is not text") from error
    if any(NAME.fullmatch(name) is None for name, _ in files[1:]):
        raise RequestError("`files` of what the other node sent has a name that is not below the pair file")
    return files


def _file(found: object) -> tuple[str, str]:
    match found:
        case [str() as name, str() as text]:
            return name, text
        case _:
            raise RequestError("`files` of what the other node sent is not a list of names and texts")
