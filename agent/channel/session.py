# SPDX-License-Identifier: GPL-2.0-or-later
"""One TLS connection between the two agents, and what may come over it in which time.

Hard fact: a stream of asyncio keeps the error of its connection in a future of its own as well, and Python
complains of it unless it is asked for.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

from agent.channel.keys import PairKey
from agent.channel.messages import LENGTH_BYTES, MAX_MESSAGE, PROTOCOL, Hello, PeerMessage, decode, encode
from agent.errors import HafwError

HELLO_LIMIT_S = 5.0
"""For the handshake, and again for the first message."""
QUIET_LIMIT_S = 5.0
WRITE_LIMIT_S = 2.0
MAX_PER_SECOND = 200
"""Messages; twice what an agent has to say, while it lists its states."""


class NotThePeerError(HafwError):
    """The other side is not the peer, or does not keep to what was agreed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are, and who the other side has to be."""

    node: str
    peer: str
    pair: str
    key: PairKey

    def require_peer(self, hello: PeerMessage | None) -> None:
        """Raises NotThePeerError."""
        if not isinstance(hello, Hello):
            raise NotThePeerError("its first message says not who it is")
        if hello.node == self.node:
            raise NotThePeerError(f"it says that it is {self.node}, as this node is")
        if (hello.node, hello.pair) != (self.peer, self.pair):
            raise NotThePeerError(f"it is {hello.node} of pair {hello.pair}, not {self.peer} of {self.pair}")
        lowest, highest = hello.protocols
        if not lowest <= PROTOCOL <= highest:
            raise NotThePeerError(f"it speaks versions {lowest} to {highest} of the protocol, we {PROTOCOL}")


class Session:
    """A connection whose other side has proved to be the peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._allowed = float(MAX_PER_SECOND)
        self._counted_s = asyncio.get_running_loop().time()

    async def send(self, data: bytes) -> None:
        """One message, encoded. Raises OSError or TimeoutError when it cannot be sent in time."""
        self._writer.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
        async with asyncio.timeout(WRITE_LIMIT_S):
            await self._writer.drain()

    async def receive(self, limit_s: float = QUIET_LIMIT_S) -> PeerMessage | None:
        """The next message; None for one of a kind that is not known here. Raises NotThePeerError,
        MessageError, OSError, TimeoutError, EOFError (asyncio.IncompleteReadError)."""
        async with asyncio.timeout(limit_s):
            length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
            if not 0 < length <= MAX_MESSAGE:
                raise NotThePeerError(f"it announces a message of {length} bytes")
            try:
                data = await self._reader.readexactly(length)
            except asyncio.IncompleteReadError as error:
                raise NotThePeerError("a message of it ends in the middle") from error
        self._count()
        return decode(data)

    def _count(self) -> None:
        now_s = asyncio.get_running_loop().time()
        spared = (now_s - self._counted_s) * MAX_PER_SECOND
        self._allowed, self._counted_s = min(self._allowed + spared, MAX_PER_SECOND) - 1, now_s
        if self._allowed < 0:
            raise NotThePeerError(f"it sends more than {MAX_PER_SECOND} messages a second")


@contextlib.asynccontextmanager
async def greeted(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: Identity
) -> AsyncIterator[Session]:
    """After the handshake: both sides say who they are. Closes the connection in the end. Raises
    NotThePeerError unless the other side is the peer, and as receive()."""
    try:
        secured = writer.get_extra_info("ssl_object")
        who.key.require_peer(secured.getpeercert(binary_form=True))
        session = Session(reader, writer)
        await session.send(encode(Hello(who.node, who.pair)))
        who.require_peer(await session.receive(HELLO_LIMIT_S))
        yield session
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
