# SPDX-License-Identifier: GPL-2.0-or-later
"""The first words of the SPICE protocol: as much of a client as is needed to be let in, or not
(spice-protocol's spice/protocol.h)."""

import socket
import struct
import subprocess
import tempfile
from pathlib import Path

OK, PERMISSION_DENIED, BAD_CONNECTION = 0, 7, 8
MAIN, DISPLAY = 1, 2
_MAGIC = b"REDQ"
_TIMEOUT_S = 60.0


def knock(channel: socket.socket, password: str, kind: int = MAIN) -> int:
    """The server's answer to the password: OK, PERMISSION_DENIED or another error of its. A client begins
    with its main channel; another one without it is a BAD_CONNECTION, if the password is right. Raises
    ConnectionError when the server hangs up."""
    channel.settimeout(_TIMEOUT_S)
    message = struct.pack("<IBBIII", 0, kind, 0, 0, 0, 18)
    channel.sendall(_MAGIC + struct.pack("<III", 2, 2, len(message)) + message)
    magic, _, _, size = struct.unpack("<4sIII", _read(channel, 16))
    assert magic == _MAGIC
    reply = _read(channel, size)
    (error,) = struct.unpack("<I", reply[:4])
    if error != OK:
        return int(error)
    channel.sendall(_encrypt(reply[4:166], password))
    (result,) = struct.unpack("<I", _read(channel, 4))
    return int(result)


def _encrypt(key: bytes, password: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "key.der")
        path.write_bytes(key)
        argv = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", str(path)]
        done = subprocess.run(
            [*argv, "-pkeyopt", "rsa_padding_mode:oaep"],
            input=password.encode() + b"\0",
            capture_output=True,
            check=True,
        )
        return done.stdout


def _read(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise ConnectionError("the server has hung up")
        data += more
    return data
