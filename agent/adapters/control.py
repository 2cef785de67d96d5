# SPDX-License-Identifier: GPL-2.0-or-later
"""The requests that a command sends to the resident agent: one line in, one JSON object out.

`status` and `facts` change nothing. `reload` is a SIGHUP with an answer: the agent takes the pair file that
is on the disk; `maintenance` likewise, with the note that this node is in maintenance. `ask` hands a
question to the other node, which lies in a file. `fitness` says what speaks against a drill, and changes
nothing. `handover` makes the other node primary; lines that tell how far it is come before its answer. Mode
0600, so root alone may ask. How the agent answers is in control_server.py, apart, so that a command that
only asks need not load asyncio.
"""

import json
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.errors import HafwError, UnavailableError

STATUS, RELOAD, FACTS = b"status\n", b"reload\n", b"facts\n"
PEER = b"peer\n"
"""Which node is the other one, and whether it can be asked; and what this one is."""
MAINTENANCE = b"maintenance\n"
"""Take what is noted on the disk."""
FITNESS = b"fitness\n"
"""What speaks against a handover to the other node and back, and where the virtual addresses are."""
ASK_PEER = b"ask "
"""With the number of a file that has the question."""
HANDOVER, FORCED_HANDOVER = b"handover\n", b"handover force\n"
PROGRESS = "progress"
"""The one key of a line that is not the answer yet."""
SIGN_OF_LIFE = b" "
"""Comes at once, and means nothing in JSON: the command knows that the agent is at work on the answer."""
SIGN_LIMIT_S = 1.5
ANSWER_LIMIT_S = 10.0
RELOAD_LIMIT_S = 30.0
PEER_LIMIT_S = 150.0
"""More than the agent gives the other node."""
HANDOVER_LIMIT_S = 240.0
"""For each line. With the longest interval of advertisements keepalived itself takes over after 160 s."""
MAX_LINE = 1 << 20


def ask_status(path: Path) -> dict[str, Any]:
    """Raises UnavailableError if the agent does not answer, HafwError if the answer is not one."""
    return _ask(path, STATUS, ANSWER_LIMIT_S, sign_limit_s=SIGN_LIMIT_S)


def ask_reload(path: Path) -> dict[str, Any]:
    """The answer comes when the rules are in force, or says in `error` why they are not. Raises as
    ask_status()."""
    return _ask(path, RELOAD, RELOAD_LIMIT_S)


def ask_peer_name(path: Path) -> dict[str, Any]:
    """The names of both nodes, the role of this one, and in `error` why the other one cannot be asked.
    Raises as ask_status()."""
    return _ask(path, PEER, ANSWER_LIMIT_S)


def ask_peer(path: Path, number: str) -> dict[str, Any]:
    """Its `answer`, or in `error` why there is none. Raises as ask_status()."""
    return _ask(path, ASK_PEER + number.encode() + b"\n", PEER_LIMIT_S)


def ask_facts(path: Path) -> dict[str, Any]:
    """What `hafw check --pair` compares. Raises as ask_status()."""
    return _ask(path, FACTS, ANSWER_LIMIT_S)


def ask_maintenance(path: Path) -> dict[str, Any]:
    """The agent takes what is noted on the disk, or says in `error` why it cannot. Raises as
    ask_status()."""
    return _ask(path, MAINTENANCE, ANSWER_LIMIT_S)


def ask_fitness(path: Path) -> dict[str, Any]:
    """What speaks against a handover and one back: see Handovers.describe_fitness(). Raises as
    ask_status()."""
    return _ask(path, FITNESS, ANSWER_LIMIT_S)


def ask_handover(
    path: Path, say: Callable[[str], None], *, force: bool, limit_s: float = HANDOVER_LIMIT_S
) -> dict[str, Any]:
    """`say` hears how far it is; `limit_s`: for each word. The answer has `error` when it was refused or
    failed. Raises as ask_status()."""
    return _ask(path, FORCED_HANDOVER if force else HANDOVER, limit_s, say=say)


def _connect(line: socket.socket, path: Path, limit_s: float) -> None:
    """Waits in the kernel's queue where others are before us; with a time limit of Python's it would refuse
    at once."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(limit_s), 0))
    line.connect(str(path))
    line.settimeout(limit_s)


def _await_sign(line: socket.socket, path: Path, limit_s: float) -> None:
    """Raises UnavailableError when an agent is there and shows no sign of life."""
    if not select.select([line], [], [], limit_s)[0]:
        raise UnavailableError(
            f"the agent at {path} does not answer: it is stopped by a signal, or hangs; rules and states "
            "stay as they are, and no agent follows keepalived",
            "see `systemctl status hafw-agent`, then: systemctl restart hafw-agent",
        )


def _ask(
    path: Path,
    question: bytes,
    limit_s: float,
    sign_limit_s: float | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            _connect(line, path, limit_s)
            line.sendall(question)
            if sign_limit_s is not None:
                _await_sign(line, path, sign_limit_s)
            with line.makefile("rb") as reply:
                text = reply.readline(MAX_LINE)
                while say is not None and (news := _read_progress(text)) is not None:
                    say(news)
                    text = reply.readline(MAX_LINE)
        except OSError as error:
            raise UnavailableError(
                f"the agent at {path} does not answer ({error.strerror or 'no reply in time'})",
                "run as root"
                if isinstance(error, PermissionError)
                else "start it, also where it runs without its socket: systemctl restart hafw-agent",
            ) from error
    if text in (b"", SIGN_OF_LIFE):
        raise UnavailableError("the agent ended before it answered", "start it: systemctl start hafw-agent")
    found = _parse(text)
    if "schema" not in found:
        raise HafwError("the agent sent an invalid answer")
    return found


def _read_progress(text: bytes) -> str | None:
    """None when it is the answer, or nothing."""
    found = _parse(text).get(PROGRESS) if text else None
    return found if isinstance(found, str) else None


def _parse(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HafwError("the agent sent an invalid answer") from error
    if not isinstance(found, dict):
        raise HafwError("the agent sent an invalid answer")
    return found
