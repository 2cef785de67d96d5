# SPDX-License-Identifier: GPL-2.0-or-later
"""Another program flushes the ruleset of a primary, or removes the chain that forwards: what nobody may send
is stopped at once, and not when a large policy is loaded again."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from tests.netns.pair_checks import SERVER, until, wait_quiet, wait_record

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

PAIR_FILE = str(Paths().pair_file)
PORT = 9999
RULES = 5000
ROUNDS = 3
REMOVALS = (
    ("flush ruleset",),
    ("flush chain inet hafw forward", "delete chain inet hafw forward"),
    ("chain inet hafw forward { policy accept; }", "flush chain inet hafw forward"),
)
PART = 4
"""At the most one in so many of the packets that are sent until the rules are back."""
SEND = f"""
import socket, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
due = time.monotonic()
while True:
    out.sendto(b"x", ("{SERVER}", {PORT}))
    due += 0.001
    time.sleep(max(0, due - time.monotonic()))
"""
RECEIVE = f"""
import json, select, socket, sys
came = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
came.bind(("{SERVER}", {PORT}))
print("ready", flush=True)
count = 0
while True:
    for one in select.select([came, sys.stdin], [], [])[0]:
        if one is came:
            came.recv(10)
            count += 1
        elif not sys.stdin.readline():
            sys.exit()
        else:
            print(json.dumps(count), flush=True)
            count = 0
"""


@contextlib.contextmanager
def running(node: Node, program: str) -> Iterator["subprocess.Popen[bytes]"]:
    argv = ["/usr/bin/python3", "-I", "-c", program]
    started = node.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def came(receiver: "subprocess.Popen[bytes]") -> int:
    """How many packets came to the server since the last call."""
    assert receiver.stdin
    assert receiver.stdout
    receiver.stdin.write(b"how many?\n")
    receiver.stdin.flush()
    return int(json.loads(receiver.stdout.readline()))


def passed(
    primary: Node, receiver: "subprocess.Popen[bytes]", removal: tuple[str, ...]
) -> tuple[int, float]:
    """The fewest forbidden packets of several removals, and the ms until the rules were back."""
    found = []
    for _ in range(ROUNDS):
        since = time.monotonic_ns()
        assert came(receiver) == 0, "the policy lets them through"
        # all at once: the agent closes what the first of several opened before nft has begun the next
        remove(primary, removal)
        removed = time.monotonic_ns()
        wait_record(primary, since, 60, event="alarm", condition="rules")
        back = wait_record(primary, since, 60, event="recovered", condition="rules")
        found.append((came(receiver), (int(str(back["mono_ns"])) - removed) / 1e6))
    return min(found)


def remove(primary: Node, removal: tuple[str, ...]) -> None:
    """nft refuses what the agent has changed since nft has looked."""
    said: list[str] = []

    def done() -> bool:
        ended = primary.run(["nft", "; ".join(removal)], check=False)
        said.append(ended.stderr)
        return ended.returncode == 0

    until(done, 10, lambda: f"{removal}: {said}")


def take_large_policy(primary: Node) -> None:
    tree = yaml.safe_load(primary.read_text(PAIR_FILE))
    tree["policy"] += [
        {"from": "client", "to": "server", "source": f"10.1.{one // 250}.{one % 250 + 1}", "allow": ["http"]}
        for one in range(RULES)
    ]
    primary.write_text("/run/large.yaml", yaml.safe_dump(tree))
    primary.run(["/usr/sbin/hafw", "rules", "apply", "--this-node", "/run/large.yaml"], timeout_s=120)


def test_a_removal_is_closed_long_before_a_large_policy_is_loaded() -> None:
    with Lab.start(LabOptions(server_route=True, advert_interval_ms=500), name="flush") as lab:
        primary = lab.node(wait_quiet(lab))
        with running(lab.node("omarine"), RECEIVE) as receiver, running(lab.node("client"), SEND):
            assert receiver.stdout
            assert receiver.stdout.readline() == b"ready\n"
            small = [passed(primary, receiver, removal)[0] for removal in REMOVALS]
            take_large_policy(primary)
            large = [passed(primary, receiver, removal) for removal in REMOVALS]
        assert lab.wait_primary(None, 5) == primary.name
    for removal, few, (many, back_ms) in zip(REMOVALS, small, large, strict=True):
        text = f"{few} with a small policy, {many} with {RULES} rules, back in {back_ms:.0f} ms"
        print(f"{'; '.join(removal)}: forbidden packets: {text}")
    assert not [removal for removal, (many, ms) in zip(REMOVALS, large, strict=True) if many >= ms / PART]
