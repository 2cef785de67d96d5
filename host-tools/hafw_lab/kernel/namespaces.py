# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel calls behind the lab: namespaces, mounts, and a process that becomes the init of a new node.

Hard facts
* Python 3.11 has no os.unshare and no os.setns, so libc is called.
* After unshare(CLONE_NEWPID) every later child is born in the new pid namespace and this cannot be undone
  without privilege over the old one. So a short-lived helper does the unshare, its child is the init, the
  helper leaves and the init falls to the supervisor, which is a child subreaper.
* A parent-death signal set before the helper leaves would kill the init at once; the init sets it when it is
  told to prepare, and end-of-file on its channel covers the time before.
* In a user namespace a remount may not drop flags that the mount was made with outside (nosuid, nodev, ...),
  and a tree with mounts inside may only be bound as a whole (MS_REC).
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hafw_lab.errors import LabError

NEWNS, NEWUTS, NEWIPC, NEWUSER = 0x0002_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000
NEWPID, NEWNET = 0x2000_0000, 0x4000_0000
NODE_FLAGS = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 2048, 4096, 16384, 1 << 18
MS_RELATIME = 1 << 21
MNT_DETACH = 2
_LOCKABLE = {
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME,
    os.ST_NODIRATIME: MS_NODIRATIME,
    os.ST_RELATIME: MS_RELATIME,
}

_OPENAT2, _RESOLVE_IN_ROOT = 437, 0x10
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Raises OSError when the kernel refuses."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def set_namespace(fd: int, kind: int = 0) -> None:
    """Enter the namespace behind `fd`; `kind` 0 takes any kind. Raises OSError."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    arguments = [os.fsencode(source), os.fsencode(target), kind.encode() or None]
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None)
    _checked(result, f"mount {source} on {target}")


def unmount(target: str | Path, flags: int = MNT_DETACH) -> None:
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def bind(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Show `source` with all mounts below it at `target` too."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        present = os.statvfs(target).f_flag
        locked = sum(flag for bit, flag in _LOCKABLE.items() if present & bit)
        mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | locked)


def open_inside(root: str | Path, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if `root` were the root directory: no symbolic link in it leads out, and no FIFO holds
    us up. Raises OSError."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    how = struct.pack(
        "=QQQ",
        flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY,
        mode if flags & os.O_CREAT else 0,
        _RESOLVE_IN_ROOT,
    )
    try:
        arguments = (ctypes.c_long(_OPENAT2), ctypes.c_int(directory), os.fsencode(path), how)
        found: int = _libc.syscall(*arguments, ctypes.c_size_t(len(how)))
    finally:
        os.close(directory)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return found


def make_mounts_private() -> None:
    """No mount made from here on reaches another mount namespace."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def set_host_name(name: str) -> None:
    encoded = name.encode()
    _checked(_libc.sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname")


def die_with_parent(signal_number: int) -> None:
    """The kernel sends this signal when the thread that made this process is gone."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Orphaned descendants become children of this process."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0), "prctl")


def enter_user_namespace() -> None:
    """Become uid 0 in a new user namespace that maps it to the caller. Raises LabError where that is not
    allowed."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise LabError(
            f"this system does not let an ordinary user make namespaces ({error.strerror})", "run it as root"
        ) from error


def is_rootless() -> bool:
    """Whether this process is root only in a user namespace that gave up setgroups."""
    return Path("/proc/self/setgroups").read_text().strip() == "deny"


def spawn_init(argv: Sequence[str], environment: Mapping[str, str], channel: int) -> int:
    """Start `argv` as process 1 of new pid, mount, network, uts and ipc namespaces, with only `channel`
    open.

    The caller must have called adopt_orphans(). Returns the pid as the caller sees it. Raises LabError.
    """
    read_end, write_end = os.pipe()
    helper = os.fork()
    if helper == 0:
        _helper(argv, environment, channel, write_end)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as answers:
        answer = answers.read()
    os.waitpid(helper, 0)
    if answer.isdigit():
        return int(answer)
    raise LabError(
        f"cannot make the namespaces of a node: {answer or 'the helper died'}", "try: hafw-lab doctor"
    )


def _helper(argv: Sequence[str], environment: Mapping[str, str], channel: int, answers: int) -> None:
    """In the forked helper; never returns."""
    status = 1
    try:
        unshare(NODE_FLAGS)
        init = os.fork()
        if init == 0:
            os.set_inheritable(channel, True)
            os.execve(argv[0], list(argv), dict(environment))
        os.write(answers, str(init).encode())
        status = 0
    except OSError as error:
        os.write(answers, str(error).encode())
    finally:
        os._exit(status)


@contextlib.contextmanager
def inside_network(fd: int) -> Iterator[None]:
    """This thread is in the network namespace `fd` for the length of the block."""
    with open("/proc/self/ns/net", "rb") as home:
        set_namespace(fd, NEWNET)
        try:
            yield
        finally:
            set_namespace(home.fileno(), NEWNET)
