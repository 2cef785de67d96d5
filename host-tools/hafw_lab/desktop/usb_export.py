# SPDX-License-Identifier: GPL-2.0-or-later
"""Hand one USB device of the machine it runs on to the process at the other end of its standard input and
output, in the usbredir protocol: `python3 -c SOURCE BUS-DEVICE`, on this machine or within a guest. One line
on standard error says that it has begun, or why not. Standard library only and no other file.

Hard facts
* usbredirect speaks TCP only. It connects to a port of the loopback, which is closed as soon as it has; who
  connects there is checked, since any user of the machine could.
* A killed usbredirect leaves the device without its driver. When its connection ends it gives it back.
"""

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_CONNECT_TIMEOUT_S = 60.0
_RETURN_TIMEOUT_S = 20.0


def main(device: str) -> int:
    signal.signal(signal.SIGTERM, _end)
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        port = listener.getsockname()[1]
        argv = ["usbredirect", "--device", device, "--to", f"127.0.0.1:{port}"]
        try:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            return _say(f"setpriv: {error.strerror}", 1)
        line = _accept(listener, process)
    if line is None:
        process.kill()
        said = process.communicate()[0].decode(errors="replace").strip()
        return _say(said.splitlines()[-1] if said else "usbredirect ended without a message", 1)
    _say("begun", 0)
    try:
        with line:
            _join(line)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_RETURN_TIMEOUT_S)
        process.kill()
    return 0


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _say(text: str, status: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)
    return status


def _accept(listener: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket | None:
    watch = os.pidfd_open(process.pid)
    try:
        while True:
            ready, _, _ = select.select([listener.fileno(), watch], [], [], _CONNECT_TIMEOUT_S)
            if listener.fileno() not in ready:
                return None
            line, peer = listener.accept()
            if _owns(process.pid, peer[1]):
                return line
            line.close()
    finally:
        os.close(watch)


def _owns(pid: int, port: int) -> bool:
    """Whether the process has the TCP socket of this local port."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].split(":")[1], 16) == port}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if (found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(path))) and found[1] in inodes:
                return True
    return False


def _join(line: socket.socket) -> None:
    """Until one of the two ends."""
    over = threading.Event()

    def copy(read: Callable[[], bytes], write: Callable[[bytes], object]) -> None:
        with contextlib.suppress(OSError):
            while data := read():
                write(data)
        over.set()

    there = (lambda: os.read(0, 1 << 16), line.sendall)
    back = (lambda: line.recv(1 << 16), _write_all)
    for ends in (there, back):
        threading.Thread(target=copy, args=ends, daemon=True).start()
    try:
        over.wait()
    finally:  # a close alone would not end the connection, since a thread reads from it
        with contextlib.suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
