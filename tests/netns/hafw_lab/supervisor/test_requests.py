# SPDX-License-Identifier: GPL-2.0-or-later
"""What a lab's supervisor bears from those who ask it: one who never reads, requests that are wrong, answers
that are too long, errors of its own, and nodes that are half made."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hafw_lab import wire
from hafw_lab.client import registry
from hafw_lab.client.connection import SupervisorProcess
from hafw_lab.client.lab import AgentKind, Lab, LabOptions
from hafw_lab.errors import LabError
from hafw_lab.plan.values import LabPlan, NodePlan
from tests.checkout import ROOT

pytestmark = pytest.mark.netns
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools"}
PATIENCE_S = 10
"""For an answer that comes at once; far below the time limits of those who wait."""


def make_plan(kind: str, *nodes: NodePlan, firewalls: tuple[str, ...] = ()) -> LabPlan:
    about = LabOptions(agent=AgentKind.NONE).to_json()
    return LabPlan(f"{kind}-{os.getpid()}", (), nodes, vips=(), firewalls=firewalls, about=about)


UP = """
import json, sys
from hafw_lab.client import registry
from hafw_lab.plan.values import LabPlan
plan = LabPlan.from_json(json.load(sys.stdin))
registry.up_plan(plan.name, plan, lambda _: None)
"""


@contextlib.contextmanager
def starting(plan: LabPlan) -> Iterator["subprocess.Popen[str]"]:
    """The `up` of a lab, which is down afterwards."""
    pipe, argv = subprocess.PIPE, [sys.executable, "-P", "-c", UP]
    with subprocess.Popen(argv, stdin=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as up:
        assert up.stdin is not None
        up.stdin.write(json.dumps(plan.to_json()))
        up.stdin.close()
        up.stdin = None  # it is written, for communicate()
        try:
            yield up
        finally:
            registry.down(plan.name, lambda _: None)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """With one node and no daemons; every test leaves it as it found it."""
    plan = make_plan("asked", NodePlan("one", firewall=False))
    with starting(plan) as up:
        assert up.communicate(timeout=PATIENCE_S)[1] == ""
        lab = registry.attach(plan.name)
        yield lab
        lab.close()


@contextlib.contextmanager
def connected(lab: Lab) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(str(registry.find_directory() / f"{lab.name}.sock"))
        channel.settimeout(PATIENCE_S)
        yield channel


def answer_to(channel: socket.socket, packet: bytes) -> dict[str, Any]:
    channel.send(packet)
    received = wire.receive(channel)
    assert received is not None
    message, files = received
    for descriptor in files:
        os.close(descriptor)
    return message


def ask_without_end(channel: socket.socket, fields: dict[str, Any]) -> None:
    for number in range(1_000_000):
        wire.send(channel, {"id": number, **fields})


PRIMARY = b'{"id": 1, "op": "primary"}'


def descriptors_of(lab: Lab) -> int:
    return len(os.listdir(f"/proc/{lab.supervisor_pid}/fd"))


@pytest.mark.parametrize(
    "request_fields",
    [{"op": "info"}, {"op": "open", "node": "one", "path": "/etc/passwd", "flags": os.O_RDONLY}],
    ids=["answers", "answers with files"],
)
def test_a_client_that_never_reads_holds_up_no_other(lab: Lab, request_fields: dict[str, Any]) -> None:
    with connected(lab) as other:
        # answered: what the test before had open is closed, and this connection is among those counted
        assert answer_to(other, PRIMARY)["ok"] == {"primary": None}
        before = descriptors_of(lab)
        with connected(lab) as deaf, pytest.raises(ConnectionError):  # it is dropped
            ask_without_end(deaf, request_fields)
        assert answer_to(other, PRIMARY)["ok"] == {"primary": None}
        assert descriptors_of(lab) == before, "nothing of what was meant for the dropped one is kept open"


NODE = {"node": "one"}


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "is not an object"),
        ({}, "unknown request"),
        ({"op": ["pid"]}, "unknown request"),
        ({"op": "pid"}, "the request 'pid': 'node' is missing"),
        ({"op": "pid", "node": ["one"]}, "'node' cannot be"),
        ({"op": "pid", "node": "one", "more": 1}, "unknown field 'more'"),
        ({"op": "heal", "node": None}, "'node' cannot be 'None'"),
        ({"op": "heal", "node": "two"}, "there is no node 'two'"),
        ({"op": "inject", **NODE}, "'fault' is missing"),
        ({"op": "inject", **NODE, "fault": "fire"}, "'fault' cannot be 'fire'"),
        ({"op": "inject", **NODE, "fault": "link"}, "'fault' cannot be 'link'"),
        ({"op": "inject", **NODE, "fault": "power:eth0"}, "'fault' cannot be 'power:eth0'"),
        ({"op": "inject", **NODE, "fault": "link:eth7"}, "one has no link 'eth7'"),
        ({"op": "inject", **NODE, "fault": "pause"}, "only a machine can pause"),
        ({"op": "inject", **NODE, "fault": "agent"}, "there is no service 'agent' here"),
        ({"op": "link", **NODE, "link": "eth0"}, "'up' is missing"),
        ({"op": "link", **NODE, "link": "eth0", "up": "no"}, "'up' cannot be 'no'"),
        ({"op": "open", **NODE, "path": "/etc\0", "flags": 0}, "'path' cannot be"),
        ({"op": "open", **NODE, "path": "/\ud800", "flags": 0}, "'path' cannot be"),
        ({"op": "open", **NODE, "path": "/etc/passwd", "flags": 1 << 70}, "'flags' cannot be"),
        ({"op": "open", **NODE, "path": "/etc/passwd", "flags": True}, "'flags' cannot be"),
        ({"op": "wait_primary", "name": None}, "'wait_s' is missing"),
        ({"op": "wait_primary", "name": None, "wait_s": "1"}, "'wait_s' cannot be"),
        ({"op": "wait_primary", "name": None, "wait_s": float("nan")}, "'wait_s' cannot be"),
        ({"op": "service", **NODE}, "'order' is missing"),
        ({"op": "service", **NODE, "order": "configure"}, "'order' cannot be 'configure'"),
        ({"op": "service", **NODE, "order": "start"}, "'service' is missing"),
        ({"op": "service", **NODE, "order": "stop", "service": "x", "signal": 999}, "'signal' cannot be"),
        (
            {"op": "service", **NODE, "order": "start", "service": "x", "id": 1, "op_": 1},
            "field 'op_'",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_request_that_is_wrong_gets_an_answer_and_changes_nothing(
    lab: Lab, packet: bytes | dict[str, Any], said: str
) -> None:
    before, files = lab.status(), descriptors_of(lab)
    with connected(lab) as channel:
        sent = packet if isinstance(packet, bytes) else json.dumps({"id": 7, **packet}).encode()
        answer = answer_to(channel, sent)
        assert said in answer["error"]
        assert "\n" not in answer["error"]
        assert answer["id"] == (None if isinstance(packet, bytes) else packet.get("id", 7))
        assert "ok" in answer_to(channel, b'{"id": 8, "op": "info"}'), "it may ask again"
        assert descriptors_of(lab) == files + 1
    assert lab.status() == before


def test_an_answer_that_is_too_long_is_an_error(lab: Lab) -> None:
    program = "for name in range(2000): open(f'/var/log/{name:0200}', 'w').close()"
    lab.node("one").run(["/usr/bin/python3", "-c", program])
    with connected(lab) as channel:
        answer = answer_to(channel, b'{"id": 1, "op": "status"}')
    lab.node("one").run(["find", "/var/log", "-name", "0*", "-delete"])
    assert "is too large for the lab's channel" in answer["error"]


def test_an_error_of_the_labs_own_is_heard_at_once() -> None:
    process = SupervisorProcess(make_plan("wrong", NodePlan("one", firewall=False), firewalls=("ghost",)))
    process._build_timeout_s = PATIENCE_S
    with pytest.raises(LabError, match=r"an error in hafw-lab itself: KeyError: 'ghost' \(nodes\.py"):
        process.wait_ready(lambda _: None)
    assert process._process.returncode == 0


def hafw_lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "hafw_lab", *arguments]
    return subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def wait_on(lab: Lab, *names: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not {node.name for node in lab.status().nodes if node.alive} >= {*names}:
        assert time.monotonic() < until


@pytest.fixture
def half() -> Iterator[Lab]:
    """A lab that starts: the node `made` is ready, `half` does not come to the end of its first boot."""
    waits = NodePlan("half", firewall=False, setup=(("tail", "-f", "/dev/null"),))
    plan = make_plan("half", NodePlan("made", firewall=False), waits)
    with starting(plan) as up:
        while up.poll() is None:
            with contextlib.suppress(LabError):  # it is not there yet
                lab = registry.attach(plan.name)
                break
        wait_on(lab, "made", "half")
        yield lab
        lab.close()


def test_a_node_that_is_half_made_is_not_entered(half: Lab) -> None:
    name = ("--name", half.name)
    for verb in (("exec", *name, "half", "--", "true"), ("shell", *name, "half")):
        done = hafw_lab(*verb)
        assert done.returncode == 1
        text = f"hafw-lab: half is not made yet: lab {half.name!r} is starting: "
        assert done.stderr.startswith(text)
        assert f"hafw-lab status {' '.join(name)} shows the progress" in done.stderr
        assert done.stderr.count("\n") == 1
    with pytest.raises(LabError, match="half is not made yet"):
        half.node("half").read_text("/etc/passwd")
    with pytest.raises(LabError, match="half is not made yet"):
        half.node("half").write_text("/etc/passwd", "")
    assert hafw_lab("exec", *name, "made", "--", "true").returncode == 0


def test_a_node_that_is_being_switched_on_again_is_not_entered() -> None:
    stays = "test ! -e /var/log/before || exec tail -f /dev/null; touch /var/log/before"
    plan = make_plan("again", NodePlan("one", firewall=False, setup=(("sh", "-c", stays),)))
    name = ("--name", plan.name)
    with starting(plan) as up:
        assert up.communicate(timeout=PATIENCE_S)[1] == ""
        assert hafw_lab("fail", "one", *name).returncode == 0
        assert hafw_lab("exec", *name, "one", "--", "true").stderr.startswith(
            "hafw-lab: one is switched off;"
        )
        heal = [sys.executable, "-P", "-m", "hafw_lab", "heal", "one", *name]
        with subprocess.Popen(heal, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as healing:
            lab = registry.attach(plan.name)
            wait_on(lab, "one")
            done = hafw_lab("exec", *name, "one", "--", "true")
            assert done.stderr == "hafw-lab: one is just being switched on; try it again in a moment\n"
            with pytest.raises(LabError, match="one is just being switched on"):
                lab.node("one").start_service("agent")
            lab.close()
            healing.kill()
