# SPDX-License-Identifier: GPL-2.0-or-later
"""The three standard streams of a command: closed, full, or with a reader that is gone."""

import os
import sys
from typing import TextIO

from agent.errors import HafwError


class ReaderGoneError(Exception):
    """The reader of our output has had enough. Any other pipe that breaks is an error like any other."""


def open_missing() -> None:
    """A stream that the caller has closed is /dev/null: no file or socket of ours gets its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which stays open at an exec
    sys.stdin = sys.stdin or os.fdopen(0, "r", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def write_answer(text: str, out: TextIO | None = None) -> None:
    """Everything at once, so that a reader that is gone, a full disk and letters that the terminal does not
    know are handled here and nowhere else. Raises ReaderGoneError or HafwError."""
    out = out or sys.stdout
    encoding = out.encoding or "utf-8"
    try:
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        out.flush()
    except OSError as error:
        _give_up(out)
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError from error
        raise HafwError(f"cannot write the answer: {error.strerror}") from error


def complain(text: str) -> None:
    """On the error output, where there is one; the exit status says the rest."""
    try:
        sys.stderr.write(f"{harmless(text)}\n")
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)


def harmless(text: str, keep: str = "\n\t") -> str:
    """Letters that a terminal would obey are shown instead: a name of a file may hold anything."""
    return "".join(one if one.isprintable() or one in keep else ascii(one)[1:-1] for one in text)


def _give_up(out: TextIO) -> None:
    """What could not be written would be tried again, and complained about, when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), out.fileno())
