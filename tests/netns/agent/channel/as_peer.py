# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that speak to an agent's channel from the addresses of its peer, in the peer's node. Some of them
have the key of the pair and lie."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agent.paths import Paths
from hafw_lab.client.lab import Lab
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from hafw_lab.model.topology import DEFAULT
from tests.netns.pair_checks import until

KEY = str(Paths().pair_key)
STRANGE_KEY = "/run/stranger.pem"
LIMIT_S = 60.0

# `connect` makes a connection, `secure` one with TLS, `greet` one whose other side takes us for the peer
_BEGIN = """
import itertools, json, os, socket, ssl, sys, time
told = json.loads(sys.argv[1])
ways, hello = told["ways"], told["hello"]
def connect(way=0):
    line = socket.socket(); line.settimeout(10)
    line.bind((ways[way][0], 0)); line.connect((ways[way][1], told["port"]))
    return line
def make_context(key=told["key"]):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if key: context.load_cert_chain(key)
    return context
def secure(way=0, **key):
    return make_context(**key).wrap_socket(connect(way))
def send(line, text):
    data = text.encode(); line.sendall(len(data).to_bytes(4, "big") + data)
def greet(way=0):
    line = secure(way); send(line, json.dumps(hello)); return line
def wait_end(line):
    try:
        while line.recv(4096): pass
    except OSError: pass
"""

LIES = (
    _BEGIN
    + """
print("ready", flush=True)
status = {"kind": "status", **told["status"]}
lines = [None] * len(ways)
while True:
    for way, line in enumerate(lines):
        try:
            if line is None: line = lines[way] = greet(way)
            send(line, json.dumps({**status, "clock_s": time.time() + told["ahead_s"]}))
        except OSError: lines[way] = None
    time.sleep(0.2)
"""
)
"""By every path, until it is ended."""

FLOOD = (
    _BEGIN
    + """
print("ready", flush=True)
for number in itertools.count():
    try:
        if number % 2: line = greet(number % len(ways))
        else: line = connect(number % len(ways))
        while True: line.sendall(b"\\0\\0\\0\\2{}" * 5000)
    except OSError: pass
"""
)
"""Bytes by every path, as many as are taken, with TLS and without."""


def arguments(lab: Lab, speaker: str, *, ahead_s: float = 0.0, **status: object) -> str:
    """`status`: what a liar says of itself, beside what its node has said last."""
    victim = other(lab, speaker)
    own, peer = (
        [str(link.addresses[0].ip) for link in node.links]
        for node in (DEFAULT.node(speaker), DEFAULT.node(victim))
        if node is not None
    )
    seen = said(lab, victim)
    truth = seen["nodes"][speaker]
    told = {
        "port": 3781,
        "key": KEY,
        "ways": list(zip(own, peer, strict=True))[::-1],
        "hello": {"kind": "hello", "node": speaker, "pair": seen["pair"], "lowest": 1, "highest": 1},
        "status": {**truth, **status},
        "ahead_s": ahead_s,
    }
    return json.dumps(told)


def said(lab: Lab, name: str) -> dict[str, Any]:
    """What `hafw status` says of both nodes."""
    done = lab.node(name).run(["/usr/sbin/hafw", "status", "--json"], timeout_s=LIMIT_S, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def speak(node: Node, program: str, told: str) -> None:
    node.run(["/usr/bin/python3", "-I", "-c", _BEGIN + program, told], timeout_s=LIMIT_S)


@contextmanager
def speaking(node: Node, program: str, told: str) -> Iterator[None]:
    """LIES or FLOOD, for the length of the block."""
    argv = ["/usr/bin/python3", "-I", "-c", program, told]
    with node.popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()


def wait_well(lab: Lab, name: str) -> None:
    until(
        lambda: not said(lab, name).get("problems", {"error": ""}),
        LIMIT_S,
        lambda: f"{name}: {said(lab, name)}",
    )
