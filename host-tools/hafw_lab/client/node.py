# SPDX-License-Identifier: GPL-2.0-or-later
"""A node as scenarios see it, whether it is made of namespaces (namespace_node.py), a virtual machine
(machine_node.py) or this machine itself (host_node.py)."""

import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from hafw_lab.client.clock import Clock
from hafw_lab.client.connection import Client
from hafw_lab.client.records import Record
from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.process import ENVIRONMENT

File = int | IO[bytes] | None


class Node(ABC):
    """Every method raises NodeDownError when the node is switched off and LabError when something else is
    wrong."""

    patience = 1
    """How many times a command's time limit it is given."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int:
        """The process on this machine that is the node: its init, its qemu, or the lab's supervisor."""
        pid = self._client.ask("pid", node=self._name)["pid"]
        if pid is None:
            raise NodeDownError(self._name)
        return int(pid)

    # -- programs --

    @abstractmethod
    def enter_argv(self, argv: Sequence[str]) -> list[str]:
        """`argv` to run inside the node."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 10,
        input: str | None = None,  # noqa: A002 - the name that subprocess.run has for it
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Raises LabError on a timeout and, with `check`, on an exit status other than 0."""
        command, limit_s = " ".join(argv), timeout_s * self.patience
        try:
            done = subprocess.run(
                self.enter_argv(argv),
                input=input or "",
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                env=ENVIRONMENT,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self._name}: {command} did not end within {limit_s:g} s") from error
        self._require_reached(done)
        if check and done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise LabError(f"{self._name}: {command} ended with status {done.returncode}: {said}")
        return done

    @abstractmethod
    def _require_reached(self, done: subprocess.CompletedProcess[str]) -> None:
        """Raises NodeDownError or LabError if what ended is the way into the node and not the program."""

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: File = subprocess.DEVNULL,
        stdout: File = None,
        stderr: File = None,
    ) -> subprocess.Popen[bytes]:
        """A program that runs inside the node, in a session of its own. It ends with the node and with the
        lab."""
        return subprocess.Popen(
            self.enter_argv(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=ENVIRONMENT,
            start_new_session=True,
        )

    # -- files --

    @abstractmethod
    def read_text(self, path: str | Path) -> str: ...

    @abstractmethod
    def write_text(self, path: str | Path, text: str) -> None: ...

    # -- services --

    def start_service(self, name: str) -> None:
        """Returns when it is up; one that runs stays as it is."""
        self._client.ask("service", node=self._name, order="start", service=name)

    def stop_service(self, name: str, signal_number: int = signal.SIGTERM) -> None:
        """Send the signal to its main process and wait until that is gone."""
        self._client.ask("service", node=self._name, order="stop", service=name, signal=int(signal_number))

    def signal_service(self, name: str, signal_number: int, *, every: bool = False) -> int:
        """Send a signal, to all of its processes with `every`, and do not wait. Returns CLOCK_MONOTONIC in
        ns."""
        answer = self._client.ask(
            "service", node=self._name, order="signal", service=name, signal=int(signal_number), every=every
        )
        return int(answer["at_ns"])

    def service_pid(self, name: str) -> int | None:
        """As numbered inside the node; None if it does not run."""
        services = self._client.ask("service", node=self._name, order="status")["services"]
        if name not in services:
            raise LabError(
                f"{self._name} has no service {name!r}", f"its services are {', '.join(services)}"
            )
        pid = services[name]["pid"]
        return None if pid is None else int(pid)

    # -- what it has said --

    @abstractmethod
    def daemon_log(self) -> str:
        """What keepalived and conntrackd have said, a line each with the node's CLOCK_MONOTONIC in front:
        `[seconds.fraction] text`. Of a machine, since it booted."""

    @abstractmethod
    def agent_records(self) -> tuple[Record, ...]:
        """What the agent has recorded, `mono_ns` by the node's CLOCK_MONOTONIC. Of a machine, since it
        booted."""

    @abstractmethod
    def measure_clock(self) -> Clock:
        """How the node's CLOCK_MONOTONIC stands to this machine's."""
