# SPDX-License-Identifier: GPL-2.0-or-later
"""Hints that can be pasted: they name this program as it was called, and the lab that was meant. Pure."""

import os
import re
import shlex

PROGRAM = "hafw-lab"
DEFAULT_LAB = "lab"
"""The one that is meant without --name."""
CALLED = "HAFW_LAB_COMMAND"
"""Where ./run says how it was called."""
_OF_A_LAB = "up|down|status|exec|shell|console|logs|fail|heal|graph|view|screenshot|watch|clipboard"
_DEEPER = "snapshot (?:save|load)|usb (?:list|attach|detach)"
_COMMAND = re.compile(rf"(?<![\w/.-]){PROGRAM} (?P<verb>(?:{_OF_A_LAB}|{_DEEPER})\b)(?P<named> --name\b)?")
_CONTINUED = " " * 12
"""With which a line begins that continues the column of the one above it."""
_PROGRAM = re.compile(rf"(?<![\w/.-]){PROGRAM} (?=[a-z])")


def absolute(called: str) -> list[str]:
    """The program for a shell that begins elsewhere, as one behind ssh."""
    first, *rest = shlex.split(called)
    return [os.path.abspath(first) if "/" in first else first, *rest]


def adapt(text: str, called: str | None, name: str | None) -> str:
    """Every command in `text`, which is written for hafw-lab and its only lab, as this user has to type it;
    `name` is None for the lab that is meant without one."""

    def spell(found: re.Match[str]) -> str:
        named = found["named"] or (f" --name {name}" if name else "")
        return f"{PROGRAM} {found['verb']}{named}"

    return _PROGRAM.sub(lambda _: f"{called or PROGRAM} ", _COMMAND.sub(spell, text))


def adapt_columns(text: str, called: str | None) -> str:
    """The same for examples with a column of words beside the commands: it stays one column."""
    shift = len(called or PROGRAM) - len(PROGRAM)

    def spell(line: str) -> str:
        if not line.startswith(_CONTINUED):
            return adapt(line, called, None)
        words = line.lstrip(" ")
        return " " * (len(line) - len(words) + shift) + adapt(words, called, None)

    return "\n".join(map(spell, text.split("\n")))
