# SPDX-License-Identifier: GPL-2.0-or-later
"""IPv6 beside IPv4: the same pair, the same failover, connections of both families."""

import json
import subprocess

import pytest

from agent.model.pair import SyncMode
from hafw_lab.client.lab import POWER, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.states import count_replicated, wait_replicated
from hafw_lab.model.topology_file import load_topology
from tests.checkout import ROOT

pytestmark = pytest.mark.netns

TOPOLOGY = ROOT / "host-tools" / "topologies" / "dual-stack.yaml"
SERVERS = ("192.168.0.3", "fd00:0::3")
SOURCES = {"192.168.0.100", "fd00::100"}

ECHO = """
import socket, threading
listener = socket.create_server(("", 22), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
def serve(one, address):
    while data := one.recv(100):
        one.sendall(address.encode() + b" " + data)
while True:
    one, (address, *_) = listener.accept()
    threading.Thread(target=serve, args=(one, address.removeprefix("::ffff:")), daemon=True).start()
"""

ASK = """
import json, socket, sys
lines = {}
for line in sys.stdin:
    word, server = line.split()
    if word == "open":
        lines[server] = socket.create_connection((server, 22), timeout=10)
    lines[server].sendall(b"?\\n")
    print(json.dumps(lines[server].recv(100).decode().split()[0]), flush=True)
"""


def start_program(node: Node, source: str) -> subprocess.Popen[bytes]:
    argv = ["/usr/bin/python3", "-I", "-c", source]
    return node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(program: subprocess.Popen[bytes], word: str, server: str) -> str:
    """The address that the server sees, told over the connection."""
    assert program.stdin
    assert program.stdout
    program.stdin.write(f"{word} {server}\n".encode())
    program.stdin.flush()
    return str(json.loads(program.stdout.readline()))


@pytest.mark.parametrize("sync", SyncMode)
def test_connections_of_both_families_survive(sync: SyncMode) -> None:
    with Lab.start(LabOptions(sync=sync), load_topology(TOPOLOGY)) as lab:
        lab.wait_settled(20)
        victim = lab.wait_primary(None, 5)
        backup = next(name for name in lab.firewalls if name != victim)
        before = count_replicated(lab.node(backup), sync)
        echo = start_program(lab.node("omarine"), ECHO)
        client = start_program(lab.node("client"), ASK)
        try:
            assert echo.stdout
            assert echo.stdout.readline() == b"ready\n"
            assert {ask(client, "open", server) for server in SERVERS} == SOURCES
            wait_replicated(lab.node(backup), sync, before + len(SERVERS), lambda _: None)
            lab.fail(victim, POWER)
            lab.wait_primary(backup, 10)
            assert {ask(client, "again", server) for server in SERVERS} == SOURCES
            lab.wait_settled(20)
        finally:
            for program in (echo, client):
                program.kill()
                program.communicate()
