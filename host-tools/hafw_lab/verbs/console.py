# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab console`: a terminal on a machine's serial port."""

import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.spoken import say

_LEAVE = b"\x1d"
"""Ctrl-], as telnet has it."""


def talk(path: Path) -> int:
    """Until the user leaves or the machine is switched off. Raises LabError."""
    with socket.socket(socket.AF_UNIX) as far:
        try:
            far.connect(str(path))
        except OSError as error:
            raise LabError(f"cannot reach the console: {error.strerror}", "is the machine on?") from error
        say("Ctrl-] leaves the console; press Enter for a prompt.")
        with _raw_terminal(sys.stdin.fileno()):
            _copy(far)
    say("")
    return 0


def _copy(far: socket.socket) -> None:
    near = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([near, far], [], [])
        if far in ready:
            data = far.recv(65536)
            if not data:
                return
            os.write(sys.stdout.fileno(), data)
        if near in ready:
            data, leave, _ = os.read(near, 4096).partition(_LEAVE)
            far.sendall(data)
            if leave or not data:
                return


@contextlib.contextmanager
def _raw_terminal(descriptor: int) -> Iterator[None]:
    """Every key goes to the machine, for the length of the block."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
