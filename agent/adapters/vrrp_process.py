"""Whether keepalived's VRRP process lives, and the moment it dies.

Hard facts: a keepalived whose two processes are killed says nothing to anybody and leaves the virtual
addresses where they are; a pidfd becomes readable at the death of its process, at once and without polling.
kill -9 of the VRRP process alone makes the parent start another one, with another pid in the same file.
"""

import os
import select
from pathlib import Path


class VrrpProcess:
    def __init__(self, pid_file: Path) -> None:
        self._pid_file = pid_file
        self._descriptor: int | None = None

    def is_alive(self) -> bool:
        """Looks at the process last seen, and for a new one if that is gone."""
        if self._descriptor is not None and not _has_ended(self._descriptor):
            return True
        # before the old descriptor is closed: with the same number nobody would see the change
        found = self._find()
        self.close()
        self._descriptor = found
        return found is not None

    def fileno(self) -> int | None:
        """Readable when the process has died; None if there is none. Changes with every new process."""
        return self._descriptor

    def _find(self) -> int | None:
        try:
            pid = int(self._pid_file.read_text(encoding="ascii").strip())
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError, OverflowError):
            return None
        if not _is_keepalived(pid) or _has_ended(descriptor):
            os.close(descriptor)
            return None
        return descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_keepalived(pid: int) -> bool:
    """A stale file may name a process of somebody else. /proc may hide the name (ProtectProc); then trust
    the file."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("keepalived")
    except OSError:
        return True


def _has_ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
