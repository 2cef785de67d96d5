# SPDX-License-Identifier: GPL-2.0-or-later
"""conntrackd's counters, asked of its control socket: a thousandth of what its own command costs, and so
often enough to hear whether the peer's is silent.

Hard facts (conntrackd 1.4.2 to 1.4.9): a request is one C int in the host's byte order, the answer text
until the end. 21 is what `conntrackd -s` asks for. A conntrackd that hangs lets questions wait in its queue:
so there is never more than one of ours.
"""

import asyncio
import socket
import struct
from pathlib import Path

from agent.adapters.conntrackd import Statistics, parse_statistics
from agent.errors import UnavailableError

_STATISTICS = struct.pack("=i", 21)
MAX_ANSWER = 1 << 16


async def ask_counters(control_socket: Path) -> Statistics:
    """Takes as long as conntrackd takes. Raises UnavailableError when it is not there or ends meanwhile,
    ToolError for an invalid answer."""
    running = asyncio.get_running_loop()
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ) as asked:
        try:
            await running.sock_connect(asked, str(control_socket))
            await running.sock_sendall(asked, _STATISTICS)
            answer = b""
            while len(answer) <= MAX_ANSWER and (more := await running.sock_recv(asked, MAX_ANSWER)):
                answer += more
        except OSError as error:
            raise UnavailableError(f"conntrackd cannot be reached: {error.strerror}") from error
    return parse_statistics(answer.decode(errors="replace"))
