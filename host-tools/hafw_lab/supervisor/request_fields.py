# SPDX-License-Identifier: GPL-2.0-or-later
"""What each request to a running lab says, and in which types; so that one that is wrong changes nothing.

Standard library only.
"""

import os
import signal
from collections.abc import Callable, Mapping

from hafw_lab import wire
from hafw_lab.errors import LabError
from hafw_lab.model.fault import Fault

Check = Callable[[object], bool]

_LONGEST_S = 1e9


def _is_text(value: object) -> bool:
    """One that can be a path."""
    if not isinstance(value, str):
        return False
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _is_signal(value: object) -> bool:
    return type(value) is int and value in signal.valid_signals()


def _is_time(value: object) -> bool:
    """Not NaN either, which is not less than anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LONGEST_S


def _is_text_or_nothing(value: object) -> bool:
    return value is None or _is_text(value)


def _is_fault(value: object) -> bool:
    """As Fault writes itself."""
    if not isinstance(value, str):
        return False
    try:
        Fault.parse(value)
    except LabError:
        return False
    return True


_OF_A_NODE: Mapping[str, Check] = {"node": _is_text}
_FIELDS: Mapping[str, Mapping[str, Check]] = {
    "info": {},
    "status": {},
    "primary": {},
    "down": {},
    "wait_primary": {"name": _is_text_or_nothing, "wait_s": _is_time},
    "save": {"directory": _is_text},
    "inject": {**_OF_A_NODE, "fault": _is_fault},
    "link": {**_OF_A_NODE, "link": _is_text, "up": _is_flag},
    "open": {**_OF_A_NODE, "path": _is_text, "flags": _is_number},
    "ticket": {**_OF_A_NODE, "valid_s": _is_number},
}
"""Of the requests that are not about a node and nothing else."""
_ORDERS: Mapping[str, Mapping[str, Check]] = {
    "status": {},
    "start": {"service": _is_text},
    "stop": {"service": _is_text, "signal": _is_signal},
    "signal": {"service": _is_text, "signal": _is_signal, "every": _is_flag},
}
"""Of the request "service"."""


def check_request(op: str, message: wire.Message) -> None:
    """Raises LabError for a field that is missing, of another type, or not known."""
    fields = _FIELDS.get(op, _OF_A_NODE)
    if op == "service":
        if "order" not in message:
            raise _bad(op, "'order' is missing")
        order = message["order"]
        if not isinstance(order, str) or order not in _ORDERS:
            raise _bad(op, f"'order' cannot be {str(order)[:40]!r}")
        fields = {**_OF_A_NODE, "order": _is_text, **_ORDERS[order]}
    for name in [*fields, *message]:
        if name not in message:
            raise _bad(op, f"{name!r} is missing")
        if name not in fields:
            raise _bad(op, f"unknown field {name[:40]!r}")
        if not fields[name](message[name]):
            raise _bad(op, f"{name!r} cannot be {str(message[name])[:40]!r}")


def _bad(op: str, why: str) -> LabError:
    text = f"the running lab does not understand the request {op!r}: {why}"
    return LabError(text, "hafw-lab down, then up again")
