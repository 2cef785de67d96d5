# SPDX-License-Identifier: GPL-2.0-or-later
"""The screen of a machine, as its users see it: tickets, who looks at it, pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hafw_lab.client.connection import Client
from hafw_lab.vm.spice import TICKET_S


@dataclass(frozen=True, slots=True)
class Remote:
    """Where the network reaches a screen; `authority` is the certificate that vouches for it, in PEM."""

    host: str
    port: int
    authority: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A password for one SPICE client, and where it is good: the UNIX socket, and `remote` with TLS."""

    password: str
    socket: Path
    remote: Remote | None


class Desktop:
    def __init__(self, client: Client, name: str, socket: Path) -> None:
        self._client = client
        self.name = name
        self.socket = socket

    def make_ticket(self, valid_s: int = TICKET_S) -> Ticket:
        """One that has to be used within so many seconds; it makes an earlier one void. Raises LabError."""
        answer = self._client.ask("ticket", node=self.name, valid_s=valid_s)
        remote: Mapping[str, Any] | None = answer["remote"]
        return Ticket(str(answer["ticket"]), self.socket, Remote(**remote) if remote else None)

    def find_viewers(self) -> list[str]:
        """From where it is looked at; a machine has one viewer at a time. Raises LabError."""
        return [str(one) for one in self._client.ask("viewers", node=self.name)["viewers"]]

    def take_picture(self) -> bytes:
        """What the screen shows, as PNG. Raises LabError."""
        with open(self._client.ask_file("screenshot", node=self.name), "rb") as file:
            return file.read()
