# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor's side of a machine's SPICE screen: who comes in, with which ticket, and pictures of it.

Hard facts
* A SPICE client opens one connection for each channel, all of them with the same password. So a ticket
  cannot be withdrawn when the first one has come in; it is a moment later. Until then a second client with
  the same ticket is known by its main channel, of which a client has one.
* The server has one password and one time of expiry. set_password alone brings an expired one not back to
  life, so the time is set afterwards.
* add_client with tls speaks TLS on the connection whatever the server's ports are; it asks for the password
  unless it is told not to.
* The server of QEMU has one client: a second one disconnects the first.
* A client whose display channel closes before it has said its first word ends qemu: spice-server 0.15.1
  looks at it once more when it is gone (a SIGSEGV in its worker, when a viewer was killed while it came).
"""

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.plan.values import LabPlan
from hafw_lab.vm.qmp import Fields, Qmp

SPICE_SOCKET = "spice.sock"
TICKET_S = 30
LONGEST_TICKET_S = 600
_WITHDRAW_S = 10.0
"""After the main channel, for the others to come in."""
_MAIN_CHANNEL = 1
_PORTS = range(5930, 6000)


@dataclass(frozen=True, slots=True)
class Door:
    """Where a screen is reached from the network, and the certificate of the authority that vouches for
    it."""

    listener: socket.socket
    authority: str


class Screen:
    """Of the machine `name`, whose qemu works in `own`. Two doors: `remote` listens on the network and
    speaks TLS only; the socket that attach() gets is for this machine."""

    def __init__(self, name: str, own: Path, remote: "Door | None") -> None:
        self._name, self._own, self._remote = name, own, remote
        self._numbers = itertools.count(1)
        self._qmp: Qmp | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._local: socket.socket | None = None
        self._tickets = 0
        self._used = False

    def describe_remote(self) -> Fields | None:
        """The door to the network, if there is one, for those who will come in by it."""
        if self._remote is None:
            return None
        host, port = self._remote.listener.getsockname()[:2]
        return {"host": host, "port": port, "authority": self._remote.authority}

    def attach(self, qmp: Qmp, local: socket.socket) -> None:
        """From here on clients come in, until detach()."""
        self._qmp, self._local = qmp, local
        self._spawn(self._serve(local, tls=False))
        if self._remote is not None:
            self._spawn(self._serve(self._remote.listener, tls=True))

    def detach(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._qmp = None
        if self._local is not None:
            self._local.close()
            self._local = None

    def on_event(self, name: str, data: Fields) -> None:
        """What qemu tells."""
        if name == "SPICE_INITIALIZED" and data["client"].get("channel-type") == _MAIN_CHANNEL:
            self._spawn(self._shut_out() if self._used else self._withdraw(self._tickets))
            self._used = True

    # -- clients --

    async def _serve(self, listener: socket.socket, *, tls: bool) -> None:
        listener.setblocking(False)
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            with client, contextlib.suppress(LabError):  # qemu is gone, and with it this task in a moment
                await self._hand_over(client, tls=tls)

    async def _hand_over(self, client: socket.socket, *, tls: bool) -> None:
        name = f"viewer-{next(self._numbers)}"
        qmp = self._require_qmp()
        await qmp.give_file(name, client.fileno())
        await qmp.execute("add_client", protocol="spice", fdname=name, tls=tls)

    async def find_viewers(self) -> list[str]:
        """From where the machine is looked at; words for a person."""
        facts = await self._require_qmp().query("query-spice")
        main = [one for one in facts.get("channels", []) if one["channel-type"] == _MAIN_CHANNEL]
        return ["this machine" if one["family"] == "unix" else str(one["host"]) for one in main]

    # -- tickets --

    async def make_ticket(self, valid_s: int) -> str:
        """A password for one client that comes within so many seconds; a second one with it closes both. An
        earlier ticket that was not used is void. Raises LabError."""
        if not 1 <= valid_s <= LONGEST_TICKET_S:
            raise LabError(f"a ticket is valid for 1 to {LONGEST_TICKET_S} s, not {valid_s}")
        self._tickets += 1
        ticket = secrets.token_urlsafe(24)
        qmp = self._require_qmp()
        await qmp.execute("set_password", protocol="spice", password=ticket, connected="keep")
        self._used = False  # not before: until here a viewer may have come in with the last one
        await qmp.execute("expire_password", protocol="spice", time=f"+{valid_s}")
        return ticket

    async def _shut_out(self) -> None:
        """Two viewers have the ticket, and it is unknown which of them is the right one."""
        if self._qmp is not None:
            with contextlib.suppress(LabError):  # qemu is gone
                fields = {"password": secrets.token_urlsafe(24), "connected": "disconnect"}
                await self._qmp.execute("set_password", protocol="spice", **fields)

    async def _withdraw(self, number: int) -> None:
        await asyncio.sleep(_WITHDRAW_S)
        if number == self._tickets and self._qmp is not None:
            with contextlib.suppress(LabError):  # qemu is gone
                await self._qmp.execute("expire_password", protocol="spice", time="now")

    # -- pictures --

    async def dump(self) -> int:
        """A descriptor of a PNG of what the screen shows. Raises LabError."""
        name = f"screen-{next(self._numbers)}.png"
        await self._require_qmp().execute("screendump", filename=name, format="png")
        path = self._own / name
        try:
            # The directory is qemu's, so what is in it is not trusted to be a file.
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise LabError(f"{self._name}: qemu made no picture: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)

    def _require_qmp(self) -> Qmp:
        if self._qmp is None:
            raise LabError(f"{self._name} is switched off", f"switch it on with: hafw-lab heal {self._name}")
        return self._qmp

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def make_password() -> int:
    """A descriptor of the password with which a server starts, which nobody knows: without a ticket nobody
    comes in."""
    descriptor = os.memfd_create("spice-password")
    os.write(descriptor, secrets.token_urlsafe(24).encode())
    return descriptor


def open_doors(plan: LabPlan) -> dict[str, socket.socket]:
    """Listening sockets on the network, by the nodes whose screens are reached there. Raises LabError."""
    found: dict[str, socket.socket] = {}
    for node in plan.nodes:
        if node.machine is not None and node.machine.remote:
            found[node.name] = _open_door(node.machine.remote)
    return found


def _open_door(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in _PORTS:
        try:
            return socket.create_server((address, port), family=family, backlog=64)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                text = f"cannot listen on {address}: {error.strerror}"
                raise LabError(text, "--remote takes an address of this machine") from error
    raise LabError(f"the ports {_PORTS[0]} to {_PORTS[-1]} of {address} are all in use")
