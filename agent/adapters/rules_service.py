# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw rules serve`, which does with the rules of this node what the other node has asked for: a process
for one question. systemd starts it where the agent connects to its socket, since the agent itself may do
none of that; without systemd the agent starts it."""

import asyncio
import socket
import sys
from pathlib import Path

from agent.adapters import process
from agent.adapters.service import is_systemd_here
from agent.errors import HafwError

ANSWER_LIMIT_S = 110.0
MAX_ANSWER = 24 * 1024


async def ask(path: Path, question: bytes) -> bytes:
    """Raises HafwError when it does not answer."""
    running = asyncio.get_running_loop()
    line = await _connect(path)
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            await running.sock_sendall(line, question)
            line.shutdown(socket.SHUT_WR)
            answer = b""
            while more := await running.sock_recv(line, MAX_ANSWER):
                answer += more
                if len(answer) > MAX_ANSWER:
                    raise HafwError("hafw rules serve answers too much")
    except TimeoutError:
        raise HafwError(f"hafw rules serve has not answered within {ANSWER_LIMIT_S:.0f} s") from None
    except OSError as error:
        raise HafwError(f"hafw rules serve is gone: {error.strerror}") from error
    finally:
        line.close()
    if not answer:
        raise HafwError("hafw rules serve has ended without an answer", "see its journal")
    return answer


async def _connect(path: Path) -> socket.socket:
    """Raises HafwError."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(line, str(path))
    except OSError as error:
        line.close()
        if is_systemd_here():
            text = f"hafw rules serve is not reached at {path}: {error.strerror}"
            raise HafwError(text, "systemctl start hafw-rules.socket") from error
        return _start()
    return line


def _start() -> socket.socket:
    """One of our own, which continues when we have ended."""
    try:
        own, other = socket.socketpair()
    except OSError as error:
        raise HafwError(f"hafw rules serve cannot be started: {error.strerror}") from error
    own.setblocking(False)
    with other:
        try:
            process.start_detached(_COMMAND, other)
        except HafwError:
            own.close()
            raise
    return own


_COMMAND = (sys.executable, "-P", "-m", "agent", "rules", "serve")
