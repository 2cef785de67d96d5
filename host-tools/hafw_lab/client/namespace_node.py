# SPDX-License-Identifier: GPL-2.0-or-later
"""A node that is made of namespaces, as scenarios see it."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.paths import Paths
from hafw_lab.client.clock import SAME_CLOCK, Clock
from hafw_lab.client.connection import Client
from hafw_lab.client.node import Node
from hafw_lab.client.records import Record, parse_records

SYSLOG = "/var/log/syslog"
_PATHS = Paths()


class NamespaceNode(Node):
    """Enters the namespaces of the node's init with nsenter(1)."""

    def __init__(self, client: Client, name: str, *, privileged: bool) -> None:
        super().__init__(client, name)
        self._privileged = privileged

    # -- programs --

    def enter_argv(self, argv: Sequence[str]) -> list[str]:
        """It also dies with the process that starts it, and when it is killed or terminated here."""
        user = () if self._privileged else ("--user", "--preserve-credentials")
        where = ("--mount", "--uts", "--ipc", "--net", "--pid")
        leash = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")
        return ["nsenter", "--target", str(self.pid), *user, *where, "--", *leash, *argv]

    def _require_reached(self, done: subprocess.CompletedProcess[str]) -> None:
        """A node that is off has no `pid` to enter, so nothing was started."""

    # -- files --

    def read_text(self, path: str | Path) -> str:
        """What is below /var/log can also be read while the node is off."""
        with open(self._open(path, os.O_RDONLY), encoding="utf-8", errors="replace") as file:
            return file.read()

    def write_text(self, path: str | Path, text: str) -> None:
        with open(self._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
            file.write(text)

    def _open(self, path: str | Path, flags: int) -> int:
        return self._client.ask_file("open", node=self._name, path=str(path), flags=flags)

    # -- what it has said --

    def daemon_log(self) -> str:
        return self.read_text(SYSLOG)

    def agent_records(self) -> tuple[Record, ...]:
        return parse_records(self.read_text(_PATHS.log_file))

    def measure_clock(self) -> Clock:
        return SAME_CLOCK
