# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw channel`: the process that speaks with the peer, for the one agent that connects to its socket.

systemd starts it when the agent connects, as a user that has nothing. Without systemd it makes the socket
itself, and then becomes that user. It ends nothing and begins nothing by itself: with each connection of the
agent come the key, the addresses and the names, and all connections to the peer end with it.
"""

import asyncio
import contextlib
import os
import pwd
import socket
import ssl
from pathlib import Path

from agent.adapters import unix_socket
from agent.adapters.lock import make_run_dir
from agent.channel.keys import parse_key
from agent.channel.link import PeerLink
from agent.channel.local import (
    MAX_DATAGRAM,
    ChannelSettings,
    Datagram,
    HeardFrom,
    Once,
    PeerRefused,
    Tell,
    Unusable,
    Usable,
    pack,
    unpack,
)
from agent.channel.session import Identity
from agent.errors import HafwError
from agent.paths import Paths

NOBODY = "nobody"
FIRST_DESCRIPTOR = 3
MAX_AGENTS_WAITING = 4
REFUSED_AT_ONCE = 6
"""By some paths, of what came and of what was called."""
REFUSED_PER_SECOND = 2
DELIVERY_LIMIT_S = 1.0


def run(paths: Paths) -> None:
    """Until it is ended by a signal. Raises HafwError when there can be no socket for the agent."""
    listener = _find_given() or _open(paths)
    _give_up_rights()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(listener))


def _find_given() -> socket.socket | None:
    """The socket that systemd listens at."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    listener = socket.socket(fileno=FIRST_DESCRIPTOR)
    listener.setblocking(False)
    return listener


def _open(paths: Paths) -> socket.socket:
    make_run_dir(paths)
    path = paths.channel_socket
    _require_unused(path)
    try:
        listener = unix_socket.bind(path, socket.SOCK_SEQPACKET)
        listener.listen(MAX_AGENTS_WAITING)
    except OSError as error:
        raise HafwError(f"cannot listen for the agent at {path}: {error.strerror}") from error
    return listener


def _require_unused(path: Path) -> None:
    """Raises HafwError where another process listens, or systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as trial, contextlib.suppress(OSError):
        trial.connect(str(path))
        raise HafwError(f"{path} is in use: hafw channel runs already", "see systemctl status hafw-channel")


def _give_up_rights() -> None:
    """Where systemd has started us there are none."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(KeyError, PermissionError):  # in a user namespace there may be one user only
        nobody = pwd.getpwnam(NOBODY)
        os.setgroups([])
        os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
        os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)


async def _serve(listener: socket.socket) -> None:
    """The agent that connects takes the place of the one before, which has ended."""
    working: asyncio.Task[None] | None = None
    async with asyncio.TaskGroup() as group:
        while True:
            line, _ = await asyncio.get_running_loop().sock_accept(listener)
            if working is not None:
                working.cancel()
                await asyncio.wait([working])
            working = group.create_task(_serve_agent(line))


async def _serve_agent(line: socket.socket) -> None:
    with line:
        if unix_socket.credentials_of(line)[1] != 0:
            return
        agent = AgentEnd(line)
        try:
            await agent.work()
        except (ssl.SSLError, HafwError) as error:
            agent.report(Unusable(str(error)))
        except (OSError, EOFError):
            return


class AgentEnd:
    """The other end of the local socket."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._refused_s = asyncio.get_running_loop().time()
        self._spared = float(REFUSED_AT_ONCE)

    def report(self, one: Datagram) -> None:
        """An agent that does not read misses it: what is told next says more. Nobody can keep the peer's
        words from it by being refused often."""
        if isinstance(one, PeerRefused) and not self._spare():
            return
        with contextlib.suppress(OSError):
            self._line.send(pack(one))

    def _spare(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        more = (now_s - self._refused_s) * REFUSED_PER_SECOND
        self._refused_s, self._spared = now_s, min(self._spared + more, REFUSED_AT_ONCE)
        if self._spared < 1:
            return False
        self._spared -= 1
        return True

    async def deliver(self, one: HeardFrom) -> None:
        """What is not said again."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(DELIVERY_LIMIT_S):
                await asyncio.get_running_loop().sock_sendall(self._line, pack(one))

    async def work(self) -> None:
        """Until the agent ends: EOFError. HafwError for settings that cannot be used."""
        first = await self._receive()
        if not isinstance(first, ChannelSettings):
            raise HafwError("the agent says nothing of the peer")
        who = Identity(first.node, first.peer, first.pair, parse_key(first.key))
        link = PeerLink(first, who, self.report, self.deliver)
        working = asyncio.create_task(link.run())
        receiving = asyncio.create_task(self._pass_on(link))
        try:
            await asyncio.wait((working, receiving), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()  # a bug ends the process, and systemd starts another one
            receiving.result()
        finally:
            for task in (working, receiving):
                task.cancel()
            await asyncio.wait((working, receiving))

    async def _pass_on(self, link: PeerLink) -> None:
        """Each word is answered: a process that hangs is not to be taken for a silent peer."""
        while True:
            self.report(Usable(link.waiting))
            one = await self._receive()
            if isinstance(one, Tell):
                link.tell(one.topic, one.message)
            elif isinstance(one, Once):
                link.tell_once(one.message)

    async def _receive(self) -> Datagram:
        data = await asyncio.get_running_loop().sock_recv(self._line, MAX_DATAGRAM)
        if not data:
            raise EOFError
        return unpack(data)
