# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that speaks with the peer: TLS and the bytes of outsiders on one side, the agent on the other.

It is apart so that nothing that comes by the network costs the agent's loop a moment, and has no rights of
its own. It decides nothing: what the agent says is told by every path, what the peer says is handed on.

Every path has two connections, one begun by each node: who has begun it speaks, the other listens. So a
connection that is half dead, as TCP finds out late, silences one direction and nothing more.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable

from agent.channel.keys import make_context
from agent.channel.local import MAX_ONCE, OTHER_KEY, ChannelSettings, HeardFrom, Path, PeerRefused
from agent.channel.messages import MAX_MESSAGE, Hello, encode
from agent.channel.session import HELLO_LIMIT_S, Identity, Session, greeted
from agent.core.comparison import StatesMessage
from agent.errors import HafwError

AGAIN_S = 0.5
NO_LISTENER_AGAIN_S = 2.0
MAX_WAITING = 8
"""Connections of one path whose other side has proved nothing yet; the oldest of more is closed."""
_FREEBIND = {socket.AF_INET: (socket.SOL_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
"""IP_FREEBIND and IPV6_FREEBIND: also an address that is not there yet, or not any more."""
_UNACKNOWLEDGED_MS = 2000
ENDED = (OSError, TimeoutError, EOFError)
"""How a connection ends."""
UNPROVED = "it did not show who it is"

Report = Callable[[HeardFrom | PeerRefused], None]
Deliver = Callable[[HeardFrom], Awaitable[None]]
"""Waits until the agent has room for it."""


class PeerLink:
    """All paths to one peer, while run() runs."""

    def __init__(self, settings: ChannelSettings, who: Identity, report: Report, deliver: Deliver) -> None:
        """Raises ssl.SSLError when the key cannot be used."""
        self._settings, self._who = settings, who
        self._report, self._deliver = report, deliver
        self._serving, self._calling = (make_context(who.key, server=one) for one in (True, False))
        self._told: dict[str, bytes] = {}
        self._once: deque[bytes] = deque(maxlen=MAX_ONCE)
        self._speaking: set[Path] = set()
        self._news = asyncio.Event()

    def tell(self, topic: str, message: bytes) -> None:
        """To the peer by every path, in place of what was not sent yet of the same topic."""
        if not message:
            self._told.pop(topic, None)
            return
        self._told[topic] = message
        self._wake()

    @property
    def waiting(self) -> int:
        """How many messages of tell_once() were not sent yet."""
        return len(self._once)

    def tell_once(self, message: bytes) -> None:
        self._once.append(message)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for path in self._settings.paths:
                group.create_task(self._call(path))
                group.create_task(self._listen(path))

    async def _call(self, path: Path) -> None:
        while True:
            try:
                await self._speak(path)
            except (*ENDED, HafwError) as error:
                self._tell_why(path, error)
            await asyncio.sleep(AGAIN_S)

    async def _speak(self, path: Path) -> None:
        """Raises one of ENDED or HafwError when the connection ends."""
        async with asyncio.timeout(HELLO_LIMIT_S):
            line = await _connect(path, self._settings.port)
            reader, writer = await _secure(line, self._calling, server=False)
        async with greeted(reader, writer, self._who) as session:
            self._speaking.add(path)
            try:
                await self._tell_all(path, session)
            finally:
                self._speaking.discard(path)
                self._wake()

    async def _tell_all(self, path: Path, session: Session) -> None:
        sent: dict[str, bytes] = {}
        while True:
            news = self._news
            for topic, message in tuple(self._told.items()):
                if sent.get(topic) is not message:
                    await session.send(message)
                    sent[topic] = message
            if self._once and path is self._first_path():
                await session.send(self._once.popleft())
            else:
                await news.wait()

    def _first_path(self) -> Path | None:
        return next((path for path in self._settings.paths if path in self._speaking), None)

    async def _listen(self, path: Path) -> None:
        while True:
            try:
                with _open_listener(path, self._settings.port) as listener:
                    await self._accept(path, listener)
            except OSError as error:
                self._tell_why(path, error)
            await asyncio.sleep(NO_LISTENER_AGAIN_S)

    async def _accept(self, path: Path, listener: socket.socket) -> None:
        served = Served()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    line, address = await asyncio.get_running_loop().sock_accept(listener)
                except OSError:  # gone again, or no descriptors left just now
                    await asyncio.sleep(AGAIN_S)
                    continue
                if address[0].partition("%")[0] != path.peer:
                    self._refuse(path, f"a connection from {address[0]}, not {path.peer}")
                    line.close()
                    continue
                if not served.add(group.create_task(self._serve(path, line, served))):
                    self._refuse(path, UNPROVED)

    async def _serve(self, path: Path, line: socket.socket, served: "Served") -> None:
        proved = False
        try:
            async with asyncio.timeout(HELLO_LIMIT_S):
                reader, writer = await _secure(line, self._serving, server=True)
            async with greeted(reader, writer, self._who) as session:
                served.prove()
                proved = True
                while True:
                    message = await session.receive()
                    if isinstance(message, StatesMessage):
                        await self._deliver(HeardFrom(path.interface, encode(message)))
                    elif message is not None and not isinstance(message, Hello):
                        self._report(HeardFrom(path.interface, encode(message)))
        except (*ENDED, HafwError) as error:
            if not self._tell_why(path, error) and not proved:
                self._refuse(path, UNPROVED)

    def _tell_why(self, path: Path, error: Exception) -> bool:
        """A connection that comes to its end is no news; who is not the peer is. Whether that was it."""
        if isinstance(error, HafwError):
            self._refuse(path, error.message)
        elif isinstance(error, ssl.SSLCertVerificationError):
            self._refuse(path, OTHER_KEY)
        elif isinstance(error, ssl.SSLError):
            self._refuse(path, f"no TLS as the pair speaks it ({error.reason or error.strerror})")
        else:
            return False
        return True

    def _refuse(self, path: Path, reason: str) -> None:
        self._report(PeerRefused(path.interface, reason))


class Served:
    """The connections to one listener: one that is proved, and some that are not yet."""

    def __init__(self) -> None:
        self._proved: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Task[None], None] = {}

    def add(self, task: "asyncio.Task[None]") -> bool:
        """False when the oldest that waits is closed for it."""
        self._waiting[task] = None
        task.add_done_callback(lambda done: self._waiting.pop(done, None))
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
            return False
        return True

    def prove(self) -> None:
        """The running task has: it takes the place of the one before."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.pop(task, None)
        if self._proved is not None:
            self._proved.cancel()
        self._proved = task


def _new_socket(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    line = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


async def _connect(path: Path, port: int) -> socket.socket:
    """By this link and no other: else a path would seem to work that does not."""
    line = _new_socket(path.own)
    try:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, path.interface.encode())
        line.bind((path.own, 0))
        await asyncio.get_running_loop().sock_connect(line, (path.peer, port))
    except BaseException:
        line.close()
        raise
    return line


def _open_listener(path: Path, port: int) -> socket.socket:
    listener = _new_socket(path.own)
    try:
        listener.setsockopt(*_FREEBIND[listener.family], 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((path.own, port))
        listener.listen(MAX_WAITING)
    except OSError:
        listener.close()
        raise
    return listener


async def _secure(
    line: socket.socket, context: ssl.SSLContext, *, server: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The handshake. asyncio has both sides of it, but a stream for one of them only.

    From here on the transport closes the socket. If we did, its number would be that of the next connection
    while asyncio still watches it: a handshake that is cancelled when it is done ends with the farewell of
    TLS, for which the transport waits.
    """
    running = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_MESSAGE)
    protocol = asyncio.StreamReaderProtocol(reader)
    if server:
        shaking = running.connect_accepted_socket(lambda: protocol, line, ssl=context)
    else:
        shaking = running.create_connection(lambda: protocol, sock=line, ssl=context, server_hostname="")
    made = asyncio.ensure_future(shaking)
    try:
        transport, _ = await asyncio.shield(made)
    except asyncio.CancelledError:
        made.add_done_callback(_abort_made)
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, running)


def _abort_made(made: "asyncio.Task[tuple[asyncio.Transport, asyncio.StreamReaderProtocol]]") -> None:
    if not made.cancelled() and made.exception() is None:
        made.result()[0].abort()
