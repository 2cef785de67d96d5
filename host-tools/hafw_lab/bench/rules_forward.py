# SPDX-License-Identifier: GPL-2.0-or-later
"""The second half of `bench rules`: what a forwarded packet costs, in the network namespace of the caller.

Hard facts
* veth hands a batch of UDP segments through the whole path as if it were one packet, unless gso_max_segs is
  1; so that it is taken apart at once and one system call still sends many.
* A packet goes all its way within the send() of its sender, and the sender's processor time counts it. So a
  rate for a second of that time says what a packet costs, also on a machine that has other work.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from agent.adapters.nftables import Nftables
from agent.core.roles import RuleSet
from agent.model.pair import Pair
from agent.rules.compile import compile_pair
from hafw_lab.errors import LabError
from hafw_lab.process import run, run_ip

_IDLE = """
import sys
print(flush=True)
sys.stdin.read()
"""
_ANSWER_ONCE = """
import socket, sys
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
held.bind(("", 5353))
print(flush=True)
_, peer = held.recvfrom(100)
held.sendto(b"yes", peer)
sys.stdin.read()
"""
_SEND = """
import socket, sys, time
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.connect(("192.168.0.3", 5353))
line.settimeout(20)
line.send(b"open")
line.recv(100)  # from now on the connection is an established one
print(flush=True)
line.setsockopt(socket.IPPROTO_UDP, 103, 18)  # UDP_SEGMENT
batch = bytes(18 * 32)
for seconds in sys.stdin:
    start = time.process_time()
    until = start + float(seconds)
    while time.process_time() < until:
        for _ in range(50):
            line.send(batch)
    print(time.process_time() - start, flush=True)
"""
# what an administrator who knows nft writes for the described system, with the ports of the lab's policy
_MINIMAL = """
table inet hand
delete table inet hand
table inet hand {
    ct helper ftp { type "ftp" protocol tcp; }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "eth1" oifname "eth0" tcp dport 21 ct helper set "ftp" accept
        iifname "eth1" oifname "eth0" tcp dport { 22, 80, 443 } accept
        iifname "eth1" oifname "eth0" udp dport 5353 accept
        iifname "eth1" oifname "eth0" icmp type echo-request accept
    }
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        iifname "eth1" tcp dport 22 accept
        ip protocol { vrrp, icmp } accept
        iifname "eth2" udp dport 3780 accept
    }
    chain srcnat {
        type nat hook postrouting priority srcnat;
        iifname "eth1" oifname "eth0" snat ip to 192.168.0.100
    }
}
"""


def measure_forward(pair: Pair, slices: int, seconds: float) -> dict[str, object]:
    """Packets that one flow gets through this namespace for a second of processor time, with the rules of
    `pair` and with a minimal set, in turns. The ratio is the median of those of neighbors."""
    rates: dict[str, list[float]] = {"hafw": [], "minimal": []}
    with _start_end(_IDLE) as client, _start_end(_ANSWER_ONCE) as server:
        _join(client.pid, server.pid)
        run(
            ["nft", "-f", "-"], text=_MINIMAL
        )  # the connection is opened, and translated, before the first turn
        sender = _enter(client.pid, ["/usr/bin/python3", "-I", "-c", _SEND])
        with subprocess.Popen(sender, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sending:
            assert sending.stdout
            if not sending.stdout.readline():
                raise LabError("the measured path carries nothing")
            ours = Nftables(compile_pair(pair))
            for number in range(2 * slices + 2):
                name = "hafw" if (number + number // 2) % 2 else "minimal"  # A B B A: a drift favors none
                _load(name, ours)
                rate = _measure_slice(sending, server.pid, seconds)
                if number >= 2:
                    rates[name].append(rate)
            sending.kill()
    pairs = zip(rates["hafw"], rates["minimal"], strict=True)
    ratios = [ours_rate / other for ours_rate, other in pairs]
    return {"rates": rates, "ratio": median(ratios), "ratios": ratios}


def _load(name: str, ours: Nftables) -> None:
    run(["nft", "flush", "ruleset"])
    if name == "hafw":
        ours.load(RuleSet.PRIMARY)
    else:
        run(["nft", "-f", "-"], text=_MINIMAL)


def _measure_slice(sending: "subprocess.Popen[str]", server: int, seconds: float) -> float:
    assert sending.stdin
    assert sending.stdout
    before = _received(server)
    sending.stdin.write(f"{seconds}\n")
    sending.stdin.flush()
    used = sending.stdout.readline()
    if not used:
        raise LabError("the sender of small packets has ended")
    return (_received(server) - before) / float(used)


def _received(pid: int) -> int:
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    return next(int(line.split(":")[1].split()[1]) for line in lines if line.strip().startswith("eth0:"))


@contextmanager
def _start_end(program: str) -> Iterator["subprocess.Popen[str]"]:
    argv = ["unshare", "--net", "--", "/usr/bin/python3", "-I", "-c", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            if not process.stdout.readline():
                raise LabError("an end of the measured path does not start")
            yield process
        finally:
            process.kill()


def _enter(pid: int, argv: list[str]) -> list[str]:
    return ["nsenter", "--target", str(pid), "--net", "--", *argv]


def _join(client: int, server: int) -> None:
    run_ip(
        f"link add eth1 type veth peer name eth0 netns {client}\n"
        f"link add eth0 type veth peer name eth0 netns {server}\n"
        "addr add 192.168.2.100/24 dev eth1\naddr add 192.168.0.100/24 dev eth0\n"
        "link set eth1 up\nlink set eth0 up\nlink set lo up\n"
    )
    for pid, address in ((client, "192.168.2.10/24"), (server, "192.168.0.3/24")):
        run(_enter(pid, ["ip", "addr", "add", address, "dev", "eth0"]))
        run(_enter(pid, ["ip", "link", "set", "eth0", "up", "gso_max_segs", "1"]))
    run(_enter(client, ["ip", "route", "add", "default", "via", "192.168.2.100"]))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
