# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that is a virtual machine, as scenarios see it."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from agent.model.records import from_journal
from agent.paths import Paths
from hafw_lab.client.clock import PROGRAM, Clock, compute_clock
from hafw_lab.client.connection import Client
from hafw_lab.client.desktop import Desktop
from hafw_lab.client.node import Node
from hafw_lab.client.records import Record, parse_records
from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.vm.files import CONSOLE_SOCKET
from hafw_lab.vm.guest_services import UNITS
from hafw_lab.vm.guest_ssh import plan_session
from hafw_lab.vm.spice import SPICE_SOCKET

MACHINE_PATIENCE = 6
"""A machine without KVM is about ten times slower than this one, and most of a timeout is a reserve."""
_FILE_TIMEOUT_S = 20.0
# What `hafw status --json` does, without the seconds that a machine takes to load all of hafw.
ASK_AGENT = (
    *("/usr/bin/python3", "-I", "-S", "-c"),
    "import socket, sys; line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1]); "
    "line.sendall(b'status\\n'); print(line.makefile().readline(), end='')",
    str(Paths().control_socket),
)
_SSH_FAILED = 255
_ROUND_TRIPS = 30
_JOURNAL = ("journalctl", "--no-pager", "--quiet")


class MachineNode(Node):
    """Reaches the guest with sessions of the supervisor's ssh connection, which goes over a serial port. A
    program whose session is killed here sees the end of its input and that nobody reads its output, and no
    signal."""

    patience = MACHINE_PATIENCE

    def __init__(self, client: Client, name: str, directory: Path) -> None:
        super().__init__(client, name)
        self._directory = directory

    @property
    def directory(self) -> Path:
        """Its sockets; in `own` those of qemu itself."""
        return self._directory

    # -- programs --

    def enter_argv(self, argv: Sequence[str], *, terminal: bool = False) -> list[str]:
        """`argv` to run inside the guest."""
        return plan_session(self._name, self._directory, argv, terminal=terminal)

    def require_reachable(self) -> None:
        """Raises NodeDownError or LabError: ssh itself would hang, or say it in words of its own."""
        facts = self._client.ask("connection", node=self._name)
        if not facts["alive"]:
            raise NodeDownError(self._name)
        if facts["paused"]:
            raise LabError(f"{self._name} is paused", f"let it continue with: hafw-lab heal {self._name}")
        if not facts["ready"]:
            text = f"{self._name} cannot be reached; is it booting?"
            raise LabError(text, f"look at it with: hafw-lab console {self._name}")

    def _require_reached(self, done: subprocess.CompletedProcess[str]) -> None:
        """A program may also end with ssh's status itself."""
        if done.returncode != _SSH_FAILED:
            return
        facts = self._client.ask("connection", node=self._name)
        if not facts["alive"]:
            raise NodeDownError(self._name)
        if not facts["ready"]:
            raise LabError(
                f"{self._name} cannot be reached over its serial port: {done.stderr.strip()}",
                "is it booting?",
            )

    # -- files --

    def read_text(self, path: str | Path) -> str:
        return self.run(["cat", "--", str(path)], timeout_s=_FILE_TIMEOUT_S).stdout

    def write_text(self, path: str | Path, text: str) -> None:
        self.run(["sh", "-c", 'cat >"$0"', str(path)], input=text, timeout_s=_FILE_TIMEOUT_S)

    @property
    def desktop(self) -> Desktop:
        """Its screen; whatever is asked of it raises LabError if the machine has none."""
        return Desktop(self._client, self._name, self._directory / SPICE_SOCKET)

    @property
    def console_socket(self) -> Path:
        """The machine's serial console; it takes one client at a time."""
        return self._directory / CONSOLE_SOCKET

    # -- logs --

    def read_log(self, service: str) -> str:
        """All that the journal has of a service, across boots, or what the machine wrote on its console."""
        if service == "console":
            return str(self._client.ask("console", node=self._name)["text"])
        return self.run(self.log_argv(service), timeout_s=_FILE_TIMEOUT_S).stdout

    def log_argv(self, service: str, *, follow: bool = False) -> list[str]:
        units = UNITS.items() if service == "all" else [(service, UNITS[service])]
        wanted = [f"--unit={unit}" for _, unit in units]
        return [*_JOURNAL, *wanted, "--output=short-precise", *(("--follow",) if follow else ())]

    def daemon_log(self) -> str:
        """What keepalived and conntrackd have logged since the machine booted, each line with the machine's
        CLOCK_MONOTONIC in front."""
        units = ("--unit=keepalived.service", "--unit=conntrackd.service")
        argv = [*_JOURNAL, "--boot", *units, "--output=short-monotonic"]
        return self.run(argv, timeout_s=_FILE_TIMEOUT_S).stdout

    def agent_records(self) -> tuple[Record, ...]:
        argv = [*_JOURNAL, "--boot", f"--unit={UNITS['agent']}", "--output=json"]
        text = self.run(argv, timeout_s=_FILE_TIMEOUT_S).stdout
        return tuple(from_journal(dict(entry)) for entry in parse_records(text) if "HAFW_EVENT" in entry)

    # -- clock --

    def measure_clock(self) -> Clock:
        """Raises LabError when the machine does not answer."""
        argv = ["/usr/bin/python3", "-I", "-S", "-c", PROGRAM]
        with self.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            samples = []
            for _ in range(1 + _ROUND_TRIPS):
                asked_ns = time.monotonic_ns()
                process.stdin.write(b"\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                if not answer:
                    raise LabError(f"{self._name} did not report its time", "is it up? hafw-lab status")
                samples.append((asked_ns, int(answer), time.monotonic_ns()))
        return compute_clock(samples)
