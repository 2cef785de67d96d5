"""The questions that a command asks the resident agent: one line in, one JSON object out.

`status` changes nothing. `reload` is a SIGHUP with an answer: the agent takes the pair file that is on the
disk. Nothing else comes over this socket. Mode 0600, so root alone may ask.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.adapters import unix_socket
from agent.errors import HafwError, UnavailableError

Answer = Callable[[], Awaitable[dict[str, Any]]]

MOST_QUESTION = 256
QUESTION_LIMIT_S = 2.0
ANSWER_LIMIT_S = 10.0
RELOAD_LIMIT_S = 30.0


async def serve(path: Path, answer: Answer, reload: Answer | None = None) -> asyncio.Server:
    """Start to answer `status`, and `reload` where it is given. A socket left by an earlier run is replaced,
    anything else at `path` is not touched. Raises HafwError if there can be none."""

    answers = {b"status\n": answer, **({b"reload\n": reload} if reload else {})}

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(QUESTION_LIMIT_S):
                question = await reader.readline()
            asked = answers.get(question)
            found = await asked() if asked else {"error": f"this is no question; ask: {_names(answers)}"}
            writer.write(json.dumps(found).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass  # whoever asked has gone, or asked without end; nothing is owed
        finally:
            writer.close()

    unix_socket.clear(path)
    mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer_one, path, limit=MOST_QUESTION)
    except OSError as error:
        message = f"cannot listen for `hafw status` at {path}: {error.strerror or error}"
        raise HafwError(message, "run as root, once on each node") from error
    finally:
        os.umask(mask)


def _names(answers: Mapping[bytes, Answer]) -> str:
    return " or ".join(name.decode().strip() for name in answers)


def ask_status(path: Path) -> dict[str, Any]:
    """Raises UnavailableError if no agent answers, HafwError if the answer is not one."""
    return _ask(path, b"status\n", ANSWER_LIMIT_S)


def ask_reload(path: Path) -> dict[str, Any]:
    """The answer comes when the rules are in force, or says in `error` why they are not. Raises as
    ask_status()."""
    return _ask(path, b"reload\n", RELOAD_LIMIT_S)


def _ask(path: Path, question: bytes, limit_s: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(limit_s)
        try:
            line.connect(str(path))
            line.sendall(question)
            with line.makefile("rb") as reply:
                text = reply.readline(1 << 20)
        except OSError as error:
            raise UnavailableError(
                f"no agent answers at {path} ({error.strerror or 'no answer in time'})",
                "start it: systemctl start hafw-agent",
            ) from error
    if not text:
        raise UnavailableError(
            "the agent has ended before it answered", "start it: systemctl start hafw-agent"
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HafwError("the agent's answer cannot be understood") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise HafwError("the agent's answer cannot be understood")
    return found
