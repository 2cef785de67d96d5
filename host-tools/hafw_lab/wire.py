# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages between the parts of the lab: one JSON object a packet over a Unix seqpacket socket, with open
files."""

import array
import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from hafw_lab.errors import LabError

Message = dict[str, Any]  # what json.loads gives; every reader picks its fields by name

_LARGEST = 1 << 20
_LONGEST_TEXT = 100_000
"""In a message, as JSON: below what the kernel takes in one packet with its usual limits."""
_MAX_FILES = 4


def make_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Message, files: Sequence[int] = (), *, wait: bool = True) -> None:
    """Raises OSError when the other side is gone, LabError when the message is too large for one packet;
    without `wait`, BlockingIOError when the other side has not read what it was sent before."""
    packet = json.dumps(message).encode()
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    if len(packet) > _LARGEST:
        raise _too_large(packet)
    try:
        channel.sendmsg([packet], ancillary, 0 if wait else socket.MSG_DONTWAIT)
    except OSError as error:
        if error.errno == errno.EMSGSIZE:  # the kernel's own limit, which depends on the machine
            raise _too_large(packet) from error
        raise


def _too_large(packet: bytes) -> LabError:
    return LabError(f"a message of {len(packet)} bytes is too large for the lab's channel")


def fit(text: str) -> str:
    """The end of a text, as much as a message has room for."""
    while len(json.dumps(text)) > _LONGEST_TEXT:
        text = text[len(text) // 4 :]
    return text


def receive(channel: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and the files that came with it; None at the end. The files belong to the caller.
    Raises LabError for what is no message."""
    space = socket.CMSG_SPACE(_MAX_FILES * array.array("i").itemsize)
    try:
        packet, ancillary, flags, _ = channel.recvmsg(_LARGEST, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    files = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    try:
        message = _parse(packet, flags) if packet else None
    except LabError:
        _close(files)
        raise
    if message is None:
        _close(files)
        return None
    return message, list(files)


def _parse(packet: bytes, flags: int) -> Message:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise LabError("a message on the lab's channel was cut off")
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise LabError("a message on the lab's channel is not JSON") from error
    if not isinstance(message, dict):
        raise LabError("a message on the lab's channel is not an object")
    return message


def _close(files: Sequence[int]) -> None:
    for fd in files:
        os.close(fd)
