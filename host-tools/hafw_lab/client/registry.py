# SPDX-License-Identifier: GPL-2.0-or-later
"""Labs that `hafw-lab up` leaves running: one socket each in a private directory, and nothing else.

A socket that does not answer belongs to a lab that has crashed; the kernel has taken everything else of it
away.
"""

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from agent.adapters.openssl import make_pair_key
from hafw_lab import lab_directory
from hafw_lab.client.connection import Client, SupervisorProcess
from hafw_lab.client.lab import Lab
from hafw_lab.compose import machines
from hafw_lab.compose.lab import plan_lab
from hafw_lab.errors import LabError
from hafw_lab.hints import DEFAULT_LAB
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import Topology
from hafw_lab.plan.values import LabPlan
from hafw_lab.progress import Progress

_UP = "up"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_END_TIMEOUT_S = 20.0


def find_directory() -> Path:
    """Where the sockets are; it need not exist."""
    if os.geteuid() == 0:
        return Path("/run/hafw-lab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime, "hafw-lab") if runtime else Path(f"/tmp/hafw-lab-{os.geteuid()}")


def find_names() -> list[str]:
    directory = find_directory()
    return sorted(path.stem for path in directory.glob("*.sock")) if directory.is_dir() else []


def attach(name: str = DEFAULT_LAB) -> Lab:
    """The lab that `hafw-lab up` left running. One that is still starting lets itself be looked at, and
    refuses the rest. Raises LabError."""
    channel = _connect(_socket_path(name))
    doing = find_change(name) if channel is None else None
    if doing is not None:  # before its first process, or behind its last
        raise LabError(f"lab {name!r} is {doing}", "its own output shows the progress")
    if channel is None:
        others = [other for other in find_names() if other != name]
        also = f" (there is {', '.join(others)}; choose with --name)" if others else ""
        raise LabError(f"no lab {name!r} is up{also}", "start one with: hafw-lab up")
    return Lab(Client(channel))


def up(name: str, options: LabOptions, topology: Topology, progress: Progress) -> bool:
    """Start a lab that stays when this process ends. False if it was up already. Raises LabError."""
    key = make_pair_key()
    plan = plan_lab(name, topology, options, privileged=os.geteuid() == 0, key=key)
    plan = machines.add_machines(plan, topology, options, progress, key=key)
    path = _socket_path(name)
    with _locked(name, _UP, progress):
        channel = _connect(path)
        if channel is not None:
            lab = Lab(Client(channel))
            same = lab.options == options.to_json() and lab.nodes == tuple(
                one.name for one in topology.nodes
            )
            lab.close()
            if not same:
                hint = "hafw-lab down ends it; or give this one a --name of its own"
                raise LabError(f"a lab {name!r} is up with other options", hint)
            return False
        if path.exists():
            progress(f"an earlier lab {name!r} has crashed; cleaning up after it")
            path.unlink()
        _start(plan, path, progress)
    return True


def up_plan(name: str, plan: LabPlan, progress: Progress) -> None:
    """Start a lab from a plan that is made already. Raises LabError if one of that name is up."""
    path = _socket_path(name)
    with _locked(name, _UP, progress):
        channel = _connect(path)
        if channel is not None:
            channel.close()
            raise LabError(f"a lab {name!r} is up", "hafw-lab down ends it; or give this one a --name")
        path.unlink(missing_ok=True)
        _start(plan, path, progress)


def _start(plan: LabPlan, path: Path, progress: Progress) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        try:
            # The supervisor itself listens: then the kernel can tell its pid to the client.
            SupervisorProcess(plan, listener).wait_ready(progress).close()
        except BaseException:  # also Ctrl-C: the supervisor ends with this process, the name has to go too
            path.unlink(missing_ok=True)
            raise


def down(name: str, progress: Progress, *, patience_s: float = _END_TIMEOUT_S) -> None:
    """Whatever state the lab is in, nothing of it is left afterwards."""
    path = _socket_path(name)
    if not find_directory().is_dir():
        progress(f"no lab {name!r} is up")
        _clear_crashed(progress)
        return
    _break_off_start(name, progress)
    with _locked(name, "down", progress):
        channel = _connect(path)
        if channel is not None:
            _end(channel, progress, patience_s)
            progress(f"lab {name!r} is down")
        elif path.exists():
            progress(f"lab {name!r} had crashed; its remains are removed")
        else:
            progress(f"no lab {name!r} is up")
        path.unlink(missing_ok=True)
    _clear_crashed(progress)


def find_holder(name: str) -> tuple[str, int] | None:
    """What is being done with this lab, `up` or `down`, and by which process; None if nothing is."""
    try:
        descriptor = os.open(find_directory() / f"{name}.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        doing, _, pid = os.read(descriptor, 64).decode(errors="replace").partition(" ")
        return doing, int(pid) if pid.isdigit() else 0
    finally:
        os.close(descriptor)
    return None


def find_change(name: str) -> str | None:
    """Whether this lab is starting or ending, in a word."""
    holder = find_holder(name)
    return None if holder is None else "starting" if holder[0] == _UP else "ending"


def _break_off_start(name: str, progress: Progress) -> None:
    """An `up` that has not come to its end is interrupted, and then clears away itself what it has begun."""
    holder = find_holder(name)
    if holder is not None and holder[0] == _UP and holder[1] > 0:
        progress(f"lab {name!r} is still starting; ending that")
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder[1], signal.SIGINT)


def _clear_crashed(progress: Progress) -> None:
    for path in lab_directory.clear_crashed():
        progress(f"removed {path}, left by a lab that was killed")


def _end(channel: socket.socket, progress: Progress, patience_s: float) -> None:
    pid, _, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    supervisor = os.pidfd_open(pid)
    client = Client(channel)
    try:
        with contextlib.suppress(LabError):  # it does not matter what it says, only that it goes
            client.ask("down", timeout_s=patience_s)
        if not _has_ended(supervisor, patience_s):
            progress(f"the supervisor {pid} does not answer; killing it")
            signal.pidfd_send_signal(supervisor, signal.SIGKILL)
            _has_ended(supervisor, _END_TIMEOUT_S)
    finally:
        client.close()
        os.close(supervisor)


def _has_ended(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def require_name(name: str) -> str:
    """Itself. Raises LabError for what is not a valid name for a lab."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} is not a valid name for a lab", "use up to 32 letters a-z, digits and hyphens"
        )
    return name


def _socket_path(name: str) -> Path:
    """Raises LabError."""
    return find_directory() / f"{require_name(name)}.sock"


def _connect(path: Path) -> socket.socket | None:
    """Raises LabError, also when what is there may belong to another user."""
    if path.parent.is_dir():
        _require_private(path.parent)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.connect(str(path))
    except OSError as error:
        channel.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            return None
        raise LabError(f"cannot reach the lab at {path}: {error.strerror}") from error
    _, owner, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if owner != os.geteuid():
        channel.close()
        raise LabError(f"the process at {path} belongs to user {owner}", "remove it and try again")
    return channel


def _require_private(directory: Path) -> None:
    facts = directory.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise LabError(f"{directory} is not a private directory of yours", "remove it and try again")


@contextlib.contextmanager
def _locked(name: str, doing: str, progress: Progress) -> Iterator[None]:
    """One `up` or `down` of this lab at a time. Another lab may take minutes to come up, and is not waited
    for. Leaves no file, and no directory when no lab is there."""
    path = find_directory() / f"{name}.lock"
    while True:
        with _locked_directory():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process starts or ends lab {name!r}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            break
        os.close(descriptor)  # its last holder has removed it
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{doing} {os.getpid()}".encode(), 0)
        yield
    finally:
        with _locked_directory():
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another lab is there
                find_directory().rmdir()
        os.close(descriptor)


@contextlib.contextmanager
def _locked_directory() -> Iterator[None]:
    """For moments only; the lock is on the directory, so it leaves no file."""
    directory = find_directory()
    while True:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(directory)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not directory.exists() or directory.stat().st_ino != os.fstat(descriptor).st_ino:
                continue  # a `down` has removed it meanwhile
            yield
            return
        finally:
            os.close(descriptor)
