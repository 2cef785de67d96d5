# SPDX-License-Identifier: GPL-2.0-or-later
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
from collections.abc import Iterable, Iterator
from pathlib import Path

from hafw_lab import wire
from hafw_lab.errors import LabError
from hafw_lab.kernel import namespaces, seccomp
from hafw_lab.node import rootfs
from hafw_lab.node.services import Services
from hafw_lab.plan.values import NodePlan, Service
from hafw_lab.process import run, run_ip

_TICK_S = 0.005
"""How often a starting service is asked whether it is up: a socket that begins to accept gives no notice."""
_LOG_SOCKET = "/dev/log"
_SYSLOG = "/var/log/syslog"


class Init:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._plan: NodePlan | None = None
        self._selector = selectors.DefaultSelector()
        self._services = self._make_services(())
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
            for key, _ in self._selector.select(_TICK_S if self._services.busy else None):
                key.data()
            self._services.tick()

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
                self._services.start(request, message["service"])
            case "stop":
                self._services.stop(request, message["service"], message["signal"])
            case "signal":
                name, number = message["service"], message["signal"]
                moment_ns = self._services.signal(name, number, every=message["every"])
                self._answer(request, {"at_ns": moment_ns})
            case "status":
                self._answer(request, self._status())
            case other:
                self._fail(request, f"unknown request {other!r}")

    def _answer(self, request: int, result: wire.Message) -> None:
        wire.send(self._channel, {"id": request, "ok": result})

    def _fail(self, request: int, error: str) -> None:
        wire.send(self._channel, {"id": request, "error": error})

    def _make_services(self, services: Iterable[Service]) -> Services:
        return Services(services, self._selector, self._answer, self._fail)

    # -- boot --

    def _prepare(self, message: wire.Message) -> None:
        plan = NodePlan.from_json(message["plan"])
        namespaces.set_host_name(plan.name)
        rootfs.build_root(Path(message["root"]), Path(message["log_store"]), plan)
        self._plan = plan
        self._services = self._make_services(plan.services)
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

    def _on_child(self) -> None:
        os.read(self._wake_read, 4096)
        for pid, status in _reaped():
            self._services.on_end(pid, os.waitstatus_to_exitcode(status))

    def _status(self) -> wire.Message:
        count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
        return {
            "services": self._services.describe(),
            "conntrack": int(count.read_text()) if count.exists() else None,
            "refused_sysctls": self._refused,
        }


def _reaped() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    Init(channel).serve()


if __name__ == "__main__":
    main()
