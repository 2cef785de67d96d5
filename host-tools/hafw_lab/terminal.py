# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that others have written, made safe for a terminal.

A node can write what it likes on its console and into its logs, and a terminal obeys what it reads: it can
be made to change its title, its size and its keys, or to type. Pure.
"""

import re
from typing import Any

# in this order: strings (OSC, DCS, APC, PM, SOS) up to their end, control sequences, other escapes
_ESCAPES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
)
_KEPT = "\n\t"


def clean(text: str) -> str:
    """One line: nothing but what can be printed, without blanks at its ends."""
    return "".join(
        letter for letter in strip_escapes(text).replace("\t", " ") if letter.isprintable()
    ).strip()


def clean_lines(text: str) -> str:
    """The same for many lines; a line that was written over ends up as it was last."""
    return "\n".join(_printable(line) for line in strip_escapes(text).split("\n"))


def clean_values(value: Any) -> Any:
    """Of what was JSON: every string in it, names as well."""
    match value:
        case str():
            return clean(value)
        case list():
            return [clean_values(one) for one in value]
        case dict():
            return {clean(str(name)): clean_values(one) for name, one in value.items()}
    return value


def strip_escapes(text: str) -> str:
    return _ESCAPES.sub("", text)


def _printable(line: str) -> str:
    last = line.rstrip("\r").rpartition("\r")[2]
    return "".join(letter for letter in last if letter.isprintable() or letter in _KEPT)
