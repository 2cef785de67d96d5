# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that reports to keepalived whether the states are in (its track_file)."""

from pathlib import Path

from agent.adapters import atomic_file
from agent.errors import HafwError
from agent.regular_file import UnfitFileError, read_regular

MAX_READINESS = 32


class Readiness:
    def __init__(self, path: Path, not_ready: int) -> None:
        """`not_ready`: what keepalived adds to the priority while the states are not in."""
        self._path = path
        self._not_ready = not_ready

    def write(self, ready: bool) -> None:
        """By rename, which keepalived sees: it would take an empty file, half written, for "ready". Raises
        HafwError."""
        try:
            atomic_file.write(self._path, f"{self._number(ready)}\n", 0o644)
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
        return 0 if ready else self._not_ready
