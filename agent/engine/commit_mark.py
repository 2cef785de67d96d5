# SPDX-License-Identifier: GPL-2.0-or-later
"""The file by which the next agent knows that a commit is owed (cache mode)."""

from pathlib import Path

from agent.adapters import atomic_file
from agent.errors import HafwError


class CommitMark:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bool:
        return self._path.exists()

    def write(self, owed: bool) -> None:
        """Raises HafwError."""
        try:
            if owed:
                atomic_file.write(self._path, "")
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            verb = "make" if owed else "remove"
            raise HafwError(f"cannot {verb} {self._path}: {error.strerror}") from error
