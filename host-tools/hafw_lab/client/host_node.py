# SPDX-License-Identifier: GPL-2.0-or-later
"""The node that is this machine itself, as scenarios see it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from hafw_lab.client.clock import SAME_CLOCK, Clock
from hafw_lab.client.connection import Client
from hafw_lab.client.node import Node
from hafw_lab.client.records import Record


class HostNode(Node):
    """Programs run here, with this machine's files, in the network namespace from which the lab was started.
    They are this machine's own: the lab does not end them."""

    def __init__(self, client: Client, name: str, network: str) -> None:
        super().__init__(client, name)
        self._network = network

    def enter_argv(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net={self._network}", "--", *argv]

    def _require_reached(self, done: subprocess.CompletedProcess[str]) -> None:
        """This machine is always there."""

    # -- files --

    def read_text(self, path: str | Path) -> str:
        return Path(path).read_text(encoding="utf-8", errors="replace")

    def write_text(self, path: str | Path, text: str) -> None:
        Path(path).write_text(text, encoding="utf-8")

    # -- what it has said --

    def daemon_log(self) -> str:
        """Nothing: the lab runs no daemons on this machine."""
        return ""

    def agent_records(self) -> tuple[Record, ...]:
        return ()

    def measure_clock(self) -> Clock:
        return SAME_CLOCK
