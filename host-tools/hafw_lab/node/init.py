"""Process 1 of a node: builds the node's root, then starts, watches and reaps its services on the
supervisor's orders.

When the supervisor is gone its channel ends, this process ends, and with it, by the rules of pid namespaces,
every process of the node. Standard library only, and everything is imported before the root changes.
"""

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hafw_lab import wire
from hafw_lab.errors import LabError
from hafw_lab.kernel import namespaces, seccomp
from hafw_lab.node import rootfs
from hafw_lab.plan.values import NodePlan, Service
from hafw_lab.process import ENVIRONMENT, run, run_ip

_TICK_S = 0.005
"""How often a starting service is asked whether it is up: a socket that begins to accept gives no notice."""
_RESTART_AFTER_S = 0.1
_LOG_SOCKET = "/dev/log"
_SYSLOG = "/var/log/syslog"


@dataclass(slots=True)
class Running:
    """A service and what is known of its process."""

    service: Service
    pid: int | None = None
    exit_status: int | None = None
    """As waitstatus_to_exitcode gives it: negative for a signal."""
    ordered_down: bool = False
    dying: bool = False
    """It was sent a signal that ends it, and has not ended yet: keepalived takes two seconds."""
    starting: tuple[int, float] | None = None
    """The request that waits for it to be up, and until when."""
    stopping: int | None = None
    restart_at: float | None = None


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


class Init:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._plan: NodePlan | None = None
        self._running: dict[str, Running] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(channel, selectors.EVENT_READ, self._on_channel)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_child)
        self._refused: list[str] = []

    def serve(self) -> None:
        """Until the supervisor is gone."""
        while True:
            busy = any(one.starting or one.restart_at for one in self._running.values())
            for key, _ in self._selector.select(_TICK_S if busy else None):
                key.data()
            self._look_after_starts()

    # -- orders --

    def _on_channel(self) -> None:
        received = wire.receive(self._channel)
        if received is None:
            os._exit(0)
        message, _ = received
        request = message["id"]
        try:
            self._obey(request, message)
        except LabError as error:
            self._fail(request, str(error))
        except OSError as error:
            self._fail(request, f"{error.strerror}: {error.filename}" if error.filename else str(error))

    def _obey(self, request: int, message: wire.Message) -> None:
        match message["op"]:
            case "prepare":
                namespaces.die_with_parent(signal.SIGKILL)
                if namespaces.is_rootless():
                    seccomp.pretend_setgroups()
                self._prepare(message)
                self._answer(request, {})
            case "configure":
                self._configure()
                self._answer(request, {"refused_sysctls": self._refused})
            case "start":
                self._start(request, self._find(message["service"]))
            case "stop":
                self._stop(request, self._find(message["service"]), message["signal"])
            case "signal":
                one = self._find(message["service"])
                moment_ns = self._signal(one, message["signal"], every=message["every"])
                self._answer(request, {"at_ns": moment_ns})
            case "status":
                self._answer(request, self._status())
            case other:
                self._fail(request, f"unknown order {other!r}")

    def _answer(self, request: int, result: wire.Message) -> None:
        wire.send(self._channel, {"id": request, "ok": result})

    def _fail(self, request: int, error: str) -> None:
        wire.send(self._channel, {"id": request, "error": error})

    def _find(self, name: str) -> Running:
        if name not in self._running:
            known = ", ".join(self._running) or "none"
            raise LabError(f"there is no service {name!r} here (services: {known})")
        return self._running[name]

    # -- boot --

    def _prepare(self, message: wire.Message) -> None:
        plan = NodePlan.from_json(message["plan"])
        namespaces.set_host_name(plan.name)
        rootfs.build_root(Path(message["root"]), Path(message["log_store"]), plan)
        self._plan = plan
        self._running = {service.name: Running(service) for service in plan.services}
        self._listen_to_syslog()
        for argv in plan.setup:  # before the sysctls: one of them lets the node forward
            run(argv)
        self._write_sysctls(plan)

    def _configure(self) -> None:
        assert self._plan is not None
        # Again, now that the interfaces are here: some of the keys are theirs.
        self._write_sysctls(self._plan)
        run_ip(self._plan.network)

    def _write_sysctls(self, plan: NodePlan) -> None:
        self._refused = []
        for sysctl in plan.sysctls:
            try:
                Path("/proc/sys", sysctl.key.replace(".", "/")).write_text(sysctl.value)
            except OSError as error:
                if not (sysctl.optional and isinstance(error, FileNotFoundError)):
                    self._refused.append(f"{sysctl.key}: {error.strerror}")

    def _listen_to_syslog(self) -> None:
        sink = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sink.bind(_LOG_SOCKET)
        os.chmod(_LOG_SOCKET, 0o666)
        target = os.open(_SYSLOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

        def take() -> None:
            text = sink.recv(16384).partition(b">")[2].rstrip(b"\n\0")
            os.write(target, f"[{time.monotonic():13.6f}] ".encode() + text + b"\n")

        self._selector.register(sink, selectors.EVENT_READ, take)

    # -- services --

    def _start(self, request: int, one: Running) -> None:
        one.ordered_down = False
        if one.pid is None:
            self._spawn(one)
        one.starting = (request, time.monotonic() + one.service.timeout_s)

    def _spawn(self, one: Running) -> None:
        service = one.service
        for path in service.stale:
            Path(path).unlink(missing_ok=True)
        source, sink = os.pipe()
        target = os.open(service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            one.pid = _begin(service, sink)
        finally:
            os.close(sink)
        one.exit_status, one.restart_at = None, None
        os.set_blocking(source, False)
        pipe = LogPipe(source, target)
        self._selector.register(source, selectors.EVENT_READ, self._pumping(pipe))

    def _pumping(self, pipe: LogPipe) -> Callable[[], None]:
        def take() -> None:
            if not pipe.pump():
                self._selector.unregister(pipe.source)
                pipe.close()

        return take

    def _stop(self, request: int, one: Running, number: int) -> None:
        one.ordered_down = True
        if one.pid is None:
            self._answer(request, {"at_ns": time.monotonic_ns()})
            return
        one.stopping = request
        self._signal(one, number, every=False)

    def _signal(self, one: Running, number: int, *, every: bool) -> int:
        if one.pid is None:
            raise LabError(f"{one.service.name} is not running")
        if number in (signal.SIGKILL, signal.SIGTERM):
            one.ordered_down = one.ordered_down or not one.service.restart
            one.dying = True
        pids = [one.pid, *_session(one.pid)] if every else [one.pid]
        moment_ns = time.monotonic_ns()
        if len(pids) > 1 and number == signal.SIGKILL:
            for pid in pids:  # so that none of them acts on the death of another
                os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, number)
        return moment_ns

    def _on_child(self) -> None:
        os.read(self._wake_read, 4096)
        for pid, status in _reaped():
            for one in self._running.values():
                if one.pid == pid:
                    self._ended(one, os.waitstatus_to_exitcode(status))

    def _ended(self, one: Running, exit_status: int) -> None:
        one.pid, one.exit_status = None, exit_status
        was_dying, one.dying = one.dying, False
        if one.starting is not None and was_dying:
            self._spawn(one)
        elif one.starting is not None:
            request, _ = one.starting
            one.starting = None
            self._fail(
                request,
                f"{one.service.name} ended at once ({_describe(exit_status)}){_last_words(one.service)}",
            )
        if one.stopping is not None:
            self._answer(one.stopping, {"at_ns": time.monotonic_ns()})
            one.stopping = None
        elif one.service.restart and not one.ordered_down:
            one.restart_at = time.monotonic() + _RESTART_AFTER_S

    def _look_after_starts(self) -> None:
        now = time.monotonic()
        for one in self._running.values():
            if one.restart_at is not None and now >= one.restart_at:
                self._spawn(one)
            if one.starting is None or one.dying:
                continue
            request, until = one.starting
            if _is_up(one.service):
                one.starting = None
                self._answer(request, {"pid": one.pid})
            elif now > until:
                one.starting = None
                text = f"{one.service.name} was not ready within {one.service.timeout_s:g} s"
                self._fail(request, text + _last_words(one.service))

    def _status(self) -> wire.Message:
        count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
        return {
            "services": {
                name: {"pid": one.pid, "exit": one.exit_status} for name, one in self._running.items()
            },
            "conntrack": int(count.read_text()) if count.exists() else None,
            "refused_sysctls": self._refused,
        }


def _begin(service: Service, output: int) -> int:
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


def _reaped() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def _session(leader: int) -> list[int]:
    """The other processes of a service: it leads a session of its own."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != leader:
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[3]) == leader:
                found.append(int(name))
    return found


def _is_up(service: Service) -> bool:
    if service.ready_file is not None and not os.path.exists(service.ready_file):
        return False
    if service.ready_socket is None:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(service.ready_socket) == 0


def _describe(exit_status: int) -> str:
    return (
        f"exit status {exit_status}"
        if exit_status >= 0
        else f"killed by {signal.Signals(-exit_status).name}"
    )


def _last_words(service: Service) -> str:
    lines = Path(service.log).read_text(errors="replace").splitlines()[-3:]
    return ": " + " / ".join(line.partition("] ")[2].strip() for line in lines) if lines else ""


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    Init(channel).serve()


if __name__ == "__main__":
    main()
