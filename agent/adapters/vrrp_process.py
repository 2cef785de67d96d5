# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process is keepalived's VRRP process, whether it lives, and the moment it dies.

Hard facts
* A keepalived whose two processes are killed notifies no one and leaves the virtual addresses where
  they are; a pidfd becomes readable at the death of its process, at once and without polling.
* kill -9 of the VRRP process alone makes the parent start another one, with another pid in the same file.
* kill -9 of the parent makes the VRRP process end by itself, within seconds; it then removes the pid file,
  also when a keepalived that was started meanwhile has put its own pid there: a missing file says nothing.
* The VRRP process holds keepalived's name on the system bus. It is a child of the process in keepalived.pid,
  and the two have the same name. A kernel need not have /proc/PID/task/PID/children.
* Any user may give a process that name. Started from a link of that name, a program that changes
  its user on start has it as well, with the rights of root, but with the real user of whoever started it.
* The files below /proc/PID/net have the inode numbers of that network namespace; to look at ns/net takes a
  capability that the agent does not have.
"""

import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SCAN_AGAIN_S = 0.5
"""Looking through all processes takes milliseconds, and hints may come by the thousand."""
MAX_PID_FILE = 32
HALTED = "TtZ"


@dataclass(frozen=True, slots=True)
class Stat:
    """What the kernel says of a process: its state, as a letter, its parent, its begin (CLOCK_BOOTTIME)."""

    state: str
    parent: int
    started_ns: int


class VrrpProcess:
    """Every witness is heard, the best first: who has keepalived's name on the bus, the pid file, the
    children of keepalived's main process, all processes of that name."""

    def __init__(self, pid_file: Path, main_pid_file: Path | None = None) -> None:
        self._pid_file = pid_file
        self._main_pid_file = main_pid_file
        self._descriptor: int | None = None
        self._scanned = -SCAN_AGAIN_S
        self._foreign: int | None = None
        """What the bus calls keepalived's process, in the numbers of another pid namespace."""
        self.pid: int | None = None

    def is_alive(self, bus_pid: int | None = None) -> bool:
        """Looks at the process last seen, and for a new one if that is gone, or if another one has the
        name."""
        same = bus_pid in (None, self.pid, self._foreign)
        if same and self._descriptor is not None and not _has_ended(self._descriptor):
            return True
        # before the old descriptor is closed: with the same number the change would not be seen
        pid, found = self._find(bus_pid) or (None, None)
        self.close()
        self.pid, self._descriptor = pid, found
        return found is not None

    def fileno(self) -> int | None:
        """Readable when the process has died; None if there is none. Changes with every new process."""
        return self._descriptor

    def stat(self) -> Stat | None:
        """None when there is no process, or /proc hides it."""
        return stat_of(self.pid) if self.pid is not None else None

    def halted(self) -> dict[int, str] | None:
        """Which of keepalived's other processes do not run, with the kernel's letter: T and t are stopped, Z
        has ended and its parent has not noticed. None when there is no main process, or /proc hides it."""
        main = self._main()
        stat = stat_of(main) if main is not None else None
        if main is None or stat is None:
            return None
        family = {main: stat.state}
        for pid in _children_of(main):
            if pid != self.pid and (child := stat_of(pid)) is not None:
                family[pid] = child.state
        return {pid: state for pid, state in family.items() if state in HALTED}

    def _main(self) -> int | None:
        """keepalived's main process: the parent of the VRRP process, else the one that the file names."""
        stat = self.stat()
        if stat is not None and _name_of(stat.parent).startswith("keepalived"):
            return stat.parent
        written = _pid_in(self._main_pid_file) if self._main_pid_file else None
        return written if written is not None and _is_keepalived(written) and _is_here(written) else None

    def file_is_right(self) -> bool:
        """Whether the pid file names the process that was found."""
        return _pid_in(self._pid_file) == self.pid

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self.pid = None

    def _find(self, bus_pid: int | None) -> tuple[int, int] | None:
        for pid in self._candidates(bus_pid):
            descriptor = _open(pid)
            if descriptor is not None:
                return pid, descriptor
        return None

    def _candidates(self, bus_pid: int | None) -> Iterator[int]:
        self._foreign = None
        if bus_pid is not None and _is_keepalived(bus_pid) and _is_here(bus_pid):
            yield bus_pid
        else:
            self._foreign = bus_pid
        main = _pid_in(self._main_pid_file) if self._main_pid_file else None
        written = _pid_in(self._pid_file)
        if written is not None and _is_keepalived(written) and _is_here(written):
            children = () if _is_child(written) else tuple(self._children(written))
            yield from children
            if not children and written != main:
                yield written
        yield from self._children(main)

    def _children(self, main: int | None) -> Iterator[int]:
        """The processes that keepalived's main process has started; with None, or if that is gone, those of
        any keepalived in this network namespace."""
        now = time.monotonic()
        if now - self._scanned < SCAN_AGAIN_S:
            return
        self._scanned = now
        parents = {pid: stat.parent for pid in _keepaliveds() if (stat := stat_of(pid)) is not None}
        if main not in parents:
            main = None
        for pid, parent in parents.items():
            if parent == main if main is not None else parent in parents:
                yield pid


def _pid_in(path: Path) -> int | None:
    """None for a file that is missing, is none, or has anything else in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        text = os.read(descriptor, MAX_PID_FILE).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return int(text) if text.isdigit() and 0 < int(text) < 1 << 31 else None


def _open(pid: int) -> int | None:
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):
        return None
    if _has_ended(descriptor):
        os.close(descriptor)
        return None
    return descriptor


def _keepaliveds() -> Iterator[int]:
    try:
        names = os.listdir(PROC)
    except OSError:
        return
    for name in names:
        pid = int(name) if name.isdigit() else 0
        if pid and _name_of(pid).startswith("keepalived") and _is_trusted(pid) and _is_here(pid):
            yield pid


def stat_of(pid: int) -> Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
        fields = text[text.rindex(")") + 2 :].split()
        return Stat(fields[0], int(fields[1]), int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None


def _children_of(pid: int) -> tuple[int, ...]:
    """Empty also with a kernel that has no such file: to look through all processes at each poll is too
    much for what may be known by it."""
    try:
        text = (PROC / str(pid) / "task" / str(pid) / "children").read_text(encoding="ascii")
    except (OSError, ValueError):
        return ()
    return tuple(int(word) for word in text.split())


def _is_child(pid: int) -> bool:
    stat = stat_of(pid)
    return stat is not None and _name_of(stat.parent).startswith("keepalived")


def _is_here(pid: int) -> bool:
    """In our network namespace; another one may have a keepalived as well. Where that is hidden: yes."""
    try:
        return (PROC / str(pid) / "net/dev").stat().st_ino == (PROC / "self/net/dev").stat().st_ino
    except OSError:
        return True


def _is_keepalived(pid: int) -> bool:
    """A stale file may name another process. /proc may hide the name (ProtectProc); then trust
    the file."""
    name = _name_of(pid)
    return not name or (name.startswith("keepalived") and _is_trusted(pid))


def _is_trusted(pid: int) -> bool:
    """Started by root, or by the user who started us."""
    try:
        lines = (PROC / str(pid) / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    real = next((int(line.split()[1]) for line in lines if line.startswith("Uid:")), None)
    return real in (0, os.getuid())


def _name_of(pid: int) -> str:
    try:
        return (PROC / str(pid) / "comm").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _has_ended(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
