# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the machines of a lab have their disks, sockets and logs: a private directory that goes with it.

    /var/tmp/hafw-lab-UID/          one for each user
        1f3a92c4/                   one for each lab; locked by the lab's supervisor
            vmlinuz
            fw-1/                   sockets, the control socket of ssh, qemu.log, start-by-hand.sh
                initrd
                own/                what qemu itself writes: the overlay disk, the console's log

Programs that take long, as those that build an image, have such a directory for what they leave lying about.
A lab that was killed cannot remove its directory, but the kernel has taken its lock away; the next lab
clears it. Standard library only.

Hard facts
* mmdebstrap without root leaves files of the user's subordinate ids, which only a user namespace with these
  can remove. A lab's own namespace has none of them.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hafw_lab.errors import LabError

_ROOM = Path(
    "/var/tmp"
)  # on a disk, since overlays grow; short, since a socket's path has at most 107 bytes


def find_room() -> Path:
    """The directory of this user's labs; it need not exist."""
    return _ROOM / f"hafw-lab-{_find_owner()}"


def _find_owner() -> int:
    """The user, also as seen from within a user namespace, where an ordinary one is root."""
    user = os.geteuid()
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= user < inside + count:
            return outside + user - inside
    return user


class LabDirectory:
    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def lock(self) -> int:
        """The descriptor with which it is locked: a process that inherits it keeps the directory."""
        return self._lock

    def remove(self) -> None:
        """Everything in it, and the room too if it was the last one."""
        with _locked(self.path.parent):
            remove_tree(self.path)
            with contextlib.suppress(OSError):  # another lab is there
                self.path.parent.rmdir()
        os.close(self._lock)


def make_lab_directory() -> LabDirectory:
    """A new one, which is this process's until it ends. Raises LabError."""
    room = find_room()
    with _locked(room):
        _clear(room)
        path = room / secrets.token_hex(4)
        path.mkdir(mode=0o711)
        path.chmod(0o711)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return LabDirectory(path, lock)


def clear_crashed() -> list[Path]:
    """Remove what labs that were killed have left. Raises LabError."""
    room = find_room()
    if not room.is_dir():
        return []
    with _locked(room):
        cleared = _clear(room)
        with contextlib.suppress(OSError):  # a lab is there
            room.rmdir()
    return cleared


def _clear(room: Path) -> list[Path]:
    cleared = []
    for path in room.iterdir():
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            if remove_tree(path):
                cleared.append(path)
        finally:
            os.close(descriptor)
    return cleared


def remove_tree(path: Path) -> bool:
    """A file or a directory with all that is in it; whether it is gone."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        shutil.rmtree(path)
    if path.is_dir() and os.geteuid() != 0:
        become = ["unshare", "--user", "--map-root-user", "--map-auto"]
        with contextlib.suppress(OSError):
            subprocess.run([*become, "rm", "-rf", "--one-file-system", path], capture_output=True)
    with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        path.unlink()
    return not path.exists()


@contextlib.contextmanager
def _locked(room: Path) -> Iterator[None]:
    """One process at a time makes and removes directories in it."""
    while True:
        with contextlib.suppress(FileExistsError):
            room.mkdir(mode=0o711)
            room.chmod(0o711)  # whatever the umask says: qemu's user has to come through
        facts = room.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o066:
            raise LabError(f"{room} is not a private directory of yours", "remove it and try again")
        descriptor = os.open(room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not room.exists() or room.stat().st_ino != os.fstat(descriptor).st_ino:
                continue  # another one has removed it meanwhile
            yield
            return
        finally:
            os.close(descriptor)
