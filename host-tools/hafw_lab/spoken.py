# SPDX-License-Identifier: GPL-2.0-or-later
"""What the lab says to people: its commands can be pasted, and a terminal obeys nothing of what a node or a
device has said. Whatever a command prints goes through here.
"""

import json
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import TextIO

from hafw_lab import hints
from hafw_lab.progress import Progress
from hafw_lab.terminal import clean_lines

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_PAINT = re.compile(rf"(\x1b\[(?:0|{'|'.join(_CODES.values())})m)")


@dataclass(frozen=True, slots=True)
class Ink:
    """Colors, or none."""

    colors: bool

    def __call__(self, name: str, text: str) -> str:
        return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if self.colors else text


def choose_ink(stream: TextIO | None = None) -> Ink:
    """Colors only for a terminal that can show them, and never against NO_COLOR."""
    out = stream or sys.stdout
    return Ink(out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")


def program() -> str:
    """This one, as it was called."""
    return os.environ.get(hints.CALLED) or hints.PROGRAM


def adapted(text: str, lab: str | None = None) -> str:
    """As this user has to type it; `lab` is the one that is meant."""
    return hints.adapt(text, program(), None if lab == hints.DEFAULT_LAB else lab)


def adapted_columns(text: str) -> str:
    """Examples, as this user has to type them."""
    return hints.adapt_columns(text, program())


def for_people(text: str, lab: str | None = None) -> str:
    return clean_lines(adapted(text, lab))


def show(text: str, lab: str | None = None) -> None:
    """What was asked for."""
    print(for_people(text, lab), flush=True)


def show_painted(text: str) -> None:
    """The same of what an Ink has painted: of all that a terminal obeys, its colors are left."""
    parts = _PAINT.split(text)  # every second one is a color
    print("".join(part if number % 2 else for_people(part) for number, part in enumerate(parts)), flush=True)


def show_json(value: object, *, indent: int | None = 2) -> None:
    """For programs. JSON has no character that a terminal obeys."""
    print(json.dumps(value, indent=indent), flush=True)


def pass_on(text: str) -> None:
    """What a node has written: as it is for programs, without what a terminal would obey for people."""
    print(clean_lines(text) if sys.stdout.isatty() else text, end="", flush=True)


def start_clock(ink: Ink) -> Progress:
    """Shows each line with the seconds since this call."""
    start = time.monotonic()
    return lambda text: show_painted(f"{ink('dim', f'{time.monotonic() - start:6.1f} s')}  {text}")


def say(text: str, lab: str | None = None) -> None:
    """How it goes, and what went wrong."""
    print(for_people(text, lab), file=sys.stderr, flush=True)
