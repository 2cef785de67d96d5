"""Messages between the parts of the lab: one JSON object a packet over a Unix seqpacket socket, with open
files."""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from hafw_lab.errors import LabError

Message = dict[str, Any]  # what json.loads gives; every reader picks its fields by name

_LARGEST = 1 << 20
_MOST_FILES = 4


def make_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Message, files: Sequence[int] = ()) -> None:
    """Raises OSError when the other side is gone, LabError when the message is too large for one packet."""
    packet = json.dumps(message).encode()
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    if len(packet) > _LARGEST:
        raise LabError(f"a message of {len(packet)} bytes is too large for the lab's channel")
    channel.sendmsg([packet], ancillary)


def receive(channel: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and the files that came with it; None at the end. The files belong to the caller."""
    space = socket.CMSG_SPACE(_MOST_FILES * array.array("i").itemsize)
    try:
        packet, ancillary, flags, _ = channel.recvmsg(_LARGEST, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    files = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    if not packet:
        for fd in files:
            os.close(fd)
        return None
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise LabError("a message on the lab's channel was cut off")
    return json.loads(packet), list(files)
