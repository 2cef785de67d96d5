# SPDX-License-Identifier: GPL-2.0-or-later
"""The process of a service: how it begins, what it writes, whether it is up. Standard library only."""

import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from hafw_lab.kernel import seccomp
from hafw_lab.plan.values import Service
from hafw_lab.process import ENVIRONMENT


@dataclass(slots=True)
class LogPipe:
    """Turns what a service writes into lines with the time at which they came."""

    source: int
    target: int
    rest: bytes = field(default=b"")

    def pump(self) -> bool:
        """False at the end of the output."""
        data = os.read(self.source, 65536)
        stamp = f"[{time.monotonic():13.6f}] ".encode()
        *lines, self.rest = (self.rest + data).split(b"\n")
        if not data and self.rest:
            lines, self.rest = [self.rest], b""
        if lines:
            os.write(self.target, b"".join(stamp + line + b"\n" for line in lines))
        return bool(data)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.target)


def begin_daemon(service: Service, output: int) -> int:
    """Its process, as a daemon begins. Raises OSError."""
    if service.reloads_limits:
        return _begin_spared(service, output)
    files = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    return os.posix_spawn(
        service.argv[0],
        service.argv,
        ENVIRONMENT,
        file_actions=files,
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def _begin_spared(service: Service, output: int) -> int:
    """The same behind a seccomp filter, which only the process itself can put before it."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            seccomp.pretend_real_time_limit()
            os.execve(service.argv[0], service.argv, ENVIRONMENT)
        except OSError as error:
            os.write(2, f"{service.argv[0]}: {error}\n".encode())
        finally:
            os._exit(127)
    return pid


def find_session(leader: int) -> list[int]:
    """The other processes of a service, which leads a session of its own; also when it has ended itself."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != leader:
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(name))
    return found


def is_up(service: Service) -> bool:
    if service.ready_file is not None and not os.path.exists(service.ready_file):
        return False
    if service.ready_socket is None:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(service.ready_socket) == 0


def describe_exit(exit_status: int) -> str:
    return (
        f"exit status {exit_status}"
        if exit_status >= 0
        else f"killed by {signal.Signals(-exit_status).name}"
    )


def last_words(service: Service) -> str:
    lines = Path(service.log).read_text(errors="replace").splitlines()[-3:]
    return ": " + " / ".join(line.partition("] ")[2].strip() for line in lines) if lines else ""
