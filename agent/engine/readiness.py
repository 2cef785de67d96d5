# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that reports to keepalived whether the states are in (its track_file), and by which this node
gives up its addresses.

Hard fact (keepalived.conf(5); tried with 2.2.7): with weight 1 a number below -253 is a fault. keepalived
says so to the other node by an advertisement of priority 0, gives up all addresses of the group within
milliseconds, and takes part again as soon as the number is another one.
"""

import contextlib
from pathlib import Path

from agent.adapters import atomic_file
from agent.core.maintenance import Maintenance
from agent.core.roles import Standing
from agent.errors import HafwError
from agent.regular_file import UnfitFileError, read_regular

MAX_READINESS = 32
FAULT = -254


class Readiness:
    def __init__(self, path: Path, not_ready: int) -> None:
        """`not_ready`: what keepalived adds to the priority while the states are not in."""
        self._path = path
        self._not_ready = not_ready
        self._ready = False
        self._standing = Standing.TAKES_PART
        self.maintenance: Maintenance | None = None
        """Whatever the states are, this node stands back, or may not be primary at all."""

    def write(self, ready: bool) -> None:
        """By rename, which keepalived sees: it would take an empty file, half written, for "ready". Raises
        HafwError."""
        self._ready = ready
        self._write()

    def stand(self, standing: Standing) -> None:
        """Raises HafwError; nothing is given up then, also later."""
        before, self._standing = self._standing, standing
        try:
            self._write()
        except HafwError:
            if standing is Standing.GIVES_UP:
                self._standing = before
            raise

    def renew(self) -> None:
        """By what is true now. Raises HafwError."""
        self._write()

    def rejoin(self, *, preempt: bool) -> Standing:
        """At the start. A node that has handed over stands back until it is primary, also with another
        agent; after a boot the number is `init_file`'s. An agent that ended in the middle of a handover has
        left a fault: where this cannot be written the next step of the node says so.

        `preempt`: of the pair; without it no node stands back. Only exactly that number: another one is of
        other priorities, or not ours. Where these are so far apart that both are the lowest number, it is
        that of a node that is not ready."""
        with contextlib.suppress(HafwError, ValueError):
            found = int(read_regular(self._path, MAX_READINESS))
            # a node in maintenance has the same number, and takes part again when that is over
            if preempt and self.maintenance is None and found == self._behind != self._not_ready:
                self._standing = Standing.STANDS_BACK
            if found <= FAULT:
                self._write()
        return self._standing

    def _write(self) -> None:
        try:
            atomic_file.write(self._path, f"{self._number(self._ready)}\n", 0o644)
        except OSError as error:
            raise HafwError(
                f"cannot report the readiness to keepalived in {self._path}: {error.strerror}"
            ) from error

    def restore(self, ready: bool) -> str | None:
        """Rewrites it after an external change, and says so. Raises HafwError."""
        wanted = self._number(ready)
        try:
            found = read_regular(self._path, MAX_READINESS).decode(errors="replace").strip()
        except UnfitFileError as error:
            words = error.reason
        else:
            if found == str(wanted):
                return None
            words = f"said {found!r}"
        self.write(ready)
        return f"{self._path} {words}; keepalived chooses the primary by it, so it says {wanted} again"

    def _number(self, ready: bool) -> int:
        if self.maintenance is not None and self._standing is not Standing.GIVES_UP:
            return FAULT if self.maintenance.never else self._behind
        match self._standing:
            case Standing.GIVES_UP:
                return FAULT
            case Standing.STANDS_BACK:  # also behind a peer that is not ready
                return self._behind
            case Standing.TAKES_PART:
                return 0 if ready else self._not_ready

    @property
    def _behind(self) -> int:
        return max(2 * self._not_ready, FAULT + 1)
