# SPDX-License-Identifier: GPL-2.0-or-later
"""How far the boot of a machine has come, by what can be seen of it from outside."""

import time
from collections.abc import Iterator

from hafw_lab.progress import Progress
from hafw_lab.vm.files import MachineFiles
from hafw_lab.vm.guest_link import GuestLink

_STALL_S = 180.0
"""So long without a sign of life is no slow machine but one that hangs."""
_SAY_EVERY_S = 15.0
BOOT_TIMEOUT_S = 900.0


class BootWatch:
    """Tells each phase once, and now and then where the machine is."""

    def __init__(self, files: MachineFiles, link: GuestLink, tell: Progress) -> None:
        self._files = files
        self._link = link
        self._tell = tell
        self._told: set[str] = set()
        self._console_size = -1
        self._begun = self._moved = self._said = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        for phase in self._phases():
            if phase not in self._told:
                self._told.add(phase)
                self._tell(phase)
                self._moved = now
        if now - self._said > _SAY_EVERY_S:
            self._said = now
            self._tell(f"on its way ({self._files.last_line() or 'nothing on the console yet'})")
        if self._files.console_size() != self._console_size:
            self._moved, self._console_size = now, self._files.console_size()

    def _phases(self) -> Iterator[str]:
        if self._files.console_size():
            yield "kernel"
        if self._link.port_open:
            yield "system"

    def find_stall_s(self) -> float | None:
        """For how long nothing has moved, if that, or the boot as a whole, is too long."""
        now = time.monotonic()
        stalled = now - self._moved > _STALL_S or now - self._begun > BOOT_TIMEOUT_S
        return now - self._moved if stalled else None
