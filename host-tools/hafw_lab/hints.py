"""Hints that can be pasted: they name this program as it was called, and the lab that was meant. Pure."""

import os
import re
import shlex

PROGRAM = "hafw-lab"
CALLED = "HAFW_LAB_COMMAND"
"""Where ./run says how it was called."""
_OF_A_LAB = "up|down|status|exec|shell|console|logs|fail|heal|graph|view|screenshot|watch|clipboard"
_DEEPER = "snapshot (?:save|load)|usb (?:list|attach|detach)"
_COMMAND = re.compile(rf"(?<![\w/.-]){PROGRAM} (?P<verb>(?:{_OF_A_LAB}|{_DEEPER})\b)(?P<named> --name\b)?")
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
