# SPDX-License-Identifier: GPL-2.0-or-later
"""Every form of NAT survives a failover: a connection of each kind continues, and looks the same."""

import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from agent.model.pair import SyncMode
from hafw_lab.client.lab import POWER, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.states import count_replicated, wait_replicated
from hafw_lab.model.topology_file import load_topology
from tests.checkout import ROOT
from tests.netns.failover.helped_ends import Program, end

pytestmark = pytest.mark.netns
TOPOLOGY = ROOT / "host-tools" / "topologies" / "dual-stack.yaml"
PAIR_FILE = "/etc/hafw/hafw.yaml"
PATIENCE_S = 60.0
SERVER_4, SERVER_6 = "192.168.0.3", "fd00::3"
VIP_4, VIP_6 = "192.168.0.100", "fd00::100"
WAY = {"from": "client", "to": "server"}
POLICY = ({**WAY, "allow": [{"tcp": "8000-8100"}]},)
NAT: list[dict[str, Any]] = [  # as the pair file has it
    {**WAY, "source": "keep", "match": {"services": [{"tcp": 8001}]}},
    {**WAY, "source": ["192.0.2.8", "2001:db8:5::8"], "match": {"services": [{"tcp": 8002}]}},
    {**WAY, "source": "192.0.2.16-192.0.2.31", "match": {"services": [{"tcp": 8003}]}},
    {**WAY, "source": "vip", "match": {"services": ["ssh", {"tcp": 8005}]}},
    {**WAY, "prefix": {"inside": "fd00:2::/64", "outside": "2001:db8:1::/64"}},
    {**WAY, "services": [{"tcp": 8080}], "destination": [SERVER_4, SERVER_6], "port": 8005, "hairpin": True},
]
OUTSIDE = ("192.0.2.0/24", "2001:db8:5::/64", "2001:db8:1::/64")
"""What the server's side routes to the pair."""
KINDS = {
    "kept": ("client", SERVER_4, 8001, "192.168.2.10"),
    "kept, IPv6": ("client", SERVER_6, 8001, "fd00:2::10"),
    "an address": ("client", SERVER_4, 8002, "192.0.2.8"),
    "an address, IPv6": ("client", SERVER_6, 8002, "2001:db8:5::8"),
    "a pool": ("client", SERVER_4, 8003, "192.0.2.16/28"),
    "virtual address": ("client", SERVER_4, 22, VIP_4),
    "virtual address, IPv6": ("client", SERVER_6, 22, VIP_6),
    "prefix": ("client", SERVER_6, 8004, "2001:db8:1::/64"),
    "port forward": ("client", "192.168.2.100", 8080, VIP_4),
    "port forward, IPv6": ("client", "fd00:2::100", 8080, VIP_6),
    "hairpin": ("omarine", "192.168.2.100", 8080, VIP_4),
}
"""Who connects where, and what the server sees."""

ECHO = """
import selectors, socket
ready = selectors.DefaultSelector()
for port in (22, 8001, 8002, 8003, 8004, 8005):
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    ready.register(listener, selectors.EVENT_READ, None)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        if key.data is None:
            one, (address, *_) = key.fileobj.accept()
            ready.register(one, selectors.EVENT_READ, address.removeprefix("::ffff:"))
        elif key.fileobj.recv(100):
            key.fileobj.sendall(key.data.encode())
        else:
            ready.unregister(key.fileobj)
"""

ASK = """
import json, socket, sys
lines = {}
for line in sys.stdin:
    name, host, port = json.loads(line)
    try:
        if name not in lines:
            lines[name] = socket.create_connection((host, port), timeout=30)
        lines[name].sendall(b"?")
        print(json.dumps(lines[name].recv(100).decode()), flush=True)
    except OSError as error:
        print(json.dumps(repr(error)), flush=True)
"""


def start_program(node: Node, source: str) -> "subprocess.Popen[bytes]":
    argv = ["/usr/bin/python3", "-I", "-c", source]
    return node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for(what: Callable[[], bool], words: str) -> None:
    """Tables can only be asked, nothing reports their change."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.05)


def change_nat(lab: Lab) -> None:
    """The same policy with every form of NAT, on both nodes."""
    for name in lab.firewalls:
        node = lab.node(name)
        pair = yaml.safe_load(node.read_text(PAIR_FILE))
        node.write_text(PAIR_FILE, yaml.safe_dump({**pair, "nat": NAT}))
        node.signal_service("agent", signal.SIGHUP)
    for name in lab.firewalls:
        wait_for(partial(has_the_new_rules, lab.node(name)), f"{name} has not the new rules")
    for network in OUTSIDE:
        gateway = VIP_4 if ip_network(network).version == 4 else VIP_6
        lab.node("omarine").run(["ip", "route", "add", network, "via", gateway])


def has_the_new_rules(node: Node) -> bool:
    return "dstnat" in node.run(["nft", "list", "table", "inet", "hafw"]).stdout


def looks_like(seen: str, expected: str) -> bool:
    return "(" not in seen and ip_address(seen) in ip_network(expected)


@pytest.mark.parametrize("sync", SyncMode)
def test_every_form_of_nat_survives(sync: SyncMode) -> None:
    with Lab.start(LabOptions(sync=sync, server_route=True, policy=POLICY), load_topology(TOPOLOGY)) as lab:
        primary = lab.wait_settled(PATIENCE_S)
        backup = next(name for name in lab.firewalls if name != primary)
        change_nat(lab)
        lab.wait_settled(PATIENCE_S)
        before = count_replicated(lab.node(backup), sync)
        echo = start_program(lab.node("omarine"), ECHO)
        askers = {name: start_program(lab.node(name), ASK) for name in ("client", "omarine")}
        programs = {name: Program(process) for name, process in askers.items()}
        try:
            assert echo.stdout
            assert echo.stdout.readline() == b"ready\n"

            def ask_all() -> dict[str, str]:
                return {
                    kind: str(programs[who].ask(kind, host, port))
                    for kind, (who, host, port, _) in KINDS.items()
                }

            seen = ask_all()
            wrong = {kind: at for kind, at in seen.items() if not looks_like(at, KINDS[kind][3])}
            assert not wrong
            wait_replicated(lab.node(backup), sync, before + len(KINDS), lambda _: None)
            lab.fail(primary, POWER)
            lab.wait_primary(backup, PATIENCE_S)
            assert ask_all() == seen
        finally:
            for process in (echo, *askers.values()):
                end(process)
