# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that keep an agent busy by its sockets and by what a helper announces. Each says `ready` and
never ends by itself."""

NOTICES = r"""
import itertools, os, socket, time
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
out.connect("/run/hafw/notify.sock")
print("ready", flush=True)
for number in itertools.count(1):
    fields = ["hafw1", "GROUP", "G1", "BACKUP", "0", str(time.monotonic_ns()), str(number % 10**6), "end"]
    out.send("\0".join(fields).encode())
"""

CONTROL = r"""
import collections, itertools, socket
# most are half open, some ask and do not read, some ask for what there is not
words = (b"", b"stat", b"", b"status\n", b"x" * 300, b"", b"nothing\n", b"")
lines = collections.deque(maxlen=400)
print("ready", flush=True)
for word in itertools.cycle(words):
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect("/run/hafw/control.sock")  # waits for a place in the queue
        line.setblocking(False)
        line.send(word)
        lines.append(line)
    except OSError:
        pass
"""

ADDRESSES = r"""
import itertools, subprocess
both = itertools.product(range(1, 200), ("add", "del"))
lines = "".join(f"address {what} 198.51.100.{number}/32 dev lo\n" for number, what in both)
print("ready", flush=True)
while True:
    subprocess.run(["ip", "-force", "-batch", "-"], input=lines.encode(), stderr=subprocess.DEVNULL)
"""

RULES = r"""
import subprocess
print("ready", flush=True)
while True:
    for what in ("add", "delete"):
        subprocess.run(["nft", what, "table", "ip", "other"], stderr=subprocess.DEVNULL)
"""

FTP_SINK = r"""
import socket, sys
listener = socket.create_server((sys.argv[1], 21), reuse_port=True)
print("ready", flush=True)
while True:
    line, _ = listener.accept()
    try:
        while line.recv(1 << 16):
            pass
    except OSError:
        pass
"""

# one command in each packet: the helper reads no other
ANNOUNCEMENTS = r"""
import itertools, socket, sys
line = socket.create_connection((sys.argv[1], 21))
line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
own = line.getsockname()[0].replace(".", ",")
print("ready", flush=True)
for number in itertools.count():
    port = 20_000 + number % 40_000
    line.sendall(f"PORT {own},{port >> 8},{port & 255}\r\n".encode())
"""
