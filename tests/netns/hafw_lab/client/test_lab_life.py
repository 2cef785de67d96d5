# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a lab: it comes up, it stays as long as it should, and nothing of it is left."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hafw_lab.client import registry
from hafw_lab.client.lab import AgentKind, Lab, LabOptions
from hafw_lab.errors import LabError
from hafw_lab.model.topology import DEFAULT, fabric_name
from tests.checkout import ROOT

pytestmark = pytest.mark.netns

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools"}
SERVER = "192.168.0.3"
OPTIONS = LabOptions(agent=AgentKind.NONE)
NOBODY = 65534
KINDS = ("mnt", "net", "pid", "uts", "ipc", "user")


def hafw_lab(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "hafw_lab", *arguments]
    return subprocess.run(argv, env=ENVIRONMENT, input=text, capture_output=True, text=True, timeout=60)


# -- what is left of a process tree --


def descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def namespaces_of(pid: int | str) -> set[str]:
    found = set()
    for kind in KINDS:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:  # it ended meanwhile
            return set()
    return found


class Traces:
    """The processes and namespaces of a running lab, to look for them when it is over."""

    def __init__(self, supervisor: int) -> None:
        self.pids = descendants(supervisor)
        self._pidfds: list[int] = []
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                self._pidfds.append(os.pidfd_open(pid))
        every = set().union(*(namespaces_of(pid) for pid in self.pids))
        self.namespaces = every - namespaces_of("self")
        assert len(self.pids) > 8, "the supervisor, four inits and the daemons"
        assert len(self.namespaces) > 20, "the lab's own ones"

    def wait_gone(self, timeout_s: float = 10) -> None:
        """Fails unless every process ends in time and no namespace has a member left."""
        until = time.monotonic() + timeout_s
        for pidfd in self._pidfds:
            ready, _, _ = select.select([pidfd], [], [], max(0.0, until - time.monotonic()))
            assert ready, "a process of the lab is still there"
            os.close(pidfd)
        for path in Path("/proc").glob("[0-9]*"):
            assert not namespaces_of(path.name) & self.namespaces, f"{path} is in a namespace of the lab"


def mounts() -> set[str]:
    """Those whose place has our name in it. Some may be there before, with the checkout itself in them."""
    return {line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "hafw" in line}


# -- life and death --


def test_nothing_is_left_after_the_block() -> None:
    before = mounts()
    with Lab.start(OPTIONS) as lab:
        traces = Traces(lab.supervisor_pid)
        links = {fabric_name(node.name, link.name) for node in DEFAULT.nodes for link in node.links}
        assert not links & set(os.listdir("/sys/class/net")), "the machine's own network is not touched"
    traces.wait_gone()
    assert mounts() <= before


def test_nothing_is_left_when_the_block_raises() -> None:
    traces = None

    def use() -> None:
        nonlocal traces
        with Lab.start(OPTIONS) as lab:
            traces = Traces(lab.supervisor_pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert traces is not None
    traces.wait_gone()


def test_nothing_is_left_when_building_fails() -> None:
    children = descendants(os.getpid())
    longest = replace(DEFAULT.segments[0], name="a-bridge-of-far-too-many-letters")
    topology = replace(
        DEFAULT, segments=(*DEFAULT.segments, replace(longest, zone="other", vips=(), vrid=None))
    )
    with pytest.raises(LabError, match="a-bridge-of-far-too-many-letters"), Lab.start(OPTIONS, topology):
        pytest.fail("the kernel takes no such name")
    assert descendants(os.getpid()) <= children


OWNER = """
import signal, sys
from hafw_lab.client.lab import *
with Lab.start(LabOptions(agent=AgentKind.NONE)) as lab:
    print(lab.supervisor_pid, flush=True)
    signal.pause()
"""


def start_owner() -> tuple[subprocess.Popen[str], int]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout
    return owner, int(owner.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_owner_is_killed(number: signal.Signals) -> None:
    owner, supervisor = start_owner()
    traces = Traces(supervisor)
    owner.send_signal(number)
    owner.communicate(timeout=20)
    traces.wait_gone()


def test_nothing_is_left_when_the_supervisor_is_killed() -> None:
    with Lab.start(OPTIONS) as lab:
        traces = Traces(lab.supervisor_pid)
        os.kill(lab.supervisor_pid, signal.SIGKILL)
        traces.wait_gone()
        with pytest.raises(LabError, match="the lab has ended"):
            lab.primary()


# -- up and down --


@pytest.fixture
def name() -> Iterator[str]:
    name = f"t-{os.getpid()}"
    yield name
    assert hafw_lab("down", "--name", name).returncode == 0
    assert name not in registry.find_names()


def test_up_stays_and_down_removes(name: str) -> None:
    first = hafw_lab("up", "--agent", "none", "--name", name)
    assert first.returncode == 0, first.stderr
    traces = Traces(registry.attach(name).supervisor_pid)
    again = hafw_lab("up", "--agent", "none", "--name", name)
    assert (again.returncode, "already up" in again.stderr) == (0, True)
    other = hafw_lab("up", "--agent", "stock", "--name", name)
    assert (other.returncode, "other options" in other.stderr) == (1, True)
    status = json.loads(hafw_lab("status", "--json", "--name", name).stdout)
    assert (status["primary"], status["options"]["agent"]) == ("fw-1", "none")
    assert hafw_lab("down", "--name", name).returncode == 0
    traces.wait_gone()
    assert hafw_lab("status", "--name", name).returncode == 3


def test_a_crashed_lab_is_cleared_by_the_next_up(name: str) -> None:
    hafw_lab("up", "--agent", "none", "--name", name)
    supervisor = registry.attach(name).supervisor_pid
    traces = Traces(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    traces.wait_gone()
    with pytest.raises(LabError, match="no lab"):
        registry.attach(name)
    again = hafw_lab("up", "--agent", "none", "--name", name)
    assert (again.returncode, "has crashed" in again.stderr) == (0, True)


def test_down_ends_a_lab_whose_supervisor_hangs(name: str) -> None:
    hafw_lab("up", "--agent", "none", "--name", name)
    lab = registry.attach(name)
    traces = Traces(lab.supervisor_pid)
    os.kill(lab.supervisor_pid, signal.SIGSTOP)
    registry.down(name, lambda _: None, patience_s=0.5)
    traces.wait_gone()
    assert name not in registry.find_names()


def test_exec_passes_input_output_and_status_through(name: str) -> None:
    hafw_lab("up", "--agent", "none", "--name", name)
    run = ("exec", "--name", name, "client", "--")
    echoed = hafw_lab(*run, "cat", text="through and through")
    assert (echoed.returncode, echoed.stdout, echoed.stderr) == (0, "through and through", "")
    assert hafw_lab(*run, "sh", "-c", "exit 7").returncode == 7
    assert hafw_lab(*run, "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    absent = hafw_lab(*run, "no-such-command")
    assert (absent.returncode, "command not found" in absent.stderr) == (127, True)
    assert hafw_lab(*run, "hostname").stdout == "client\n"


def test_exec_ends_its_command_when_it_is_terminated(name: str) -> None:
    hafw_lab("up", "--agent", "none", "--name", name)
    argv = [sys.executable, "-P", "-m", "hafw_lab", "exec", "--name", name, "client", "--"]
    script = "trap 'exit 5' TERM; echo ready; while :; do read -t 1 line; done"
    with subprocess.Popen(
        [*argv, "bash", "-c", script],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        try:
            assert process.wait(5) == 5
        finally:
            process.kill()


def test_without_privilege() -> None:
    """As an ordinary user, if this is not one already: hooks run, power fails, nothing is left."""
    program = ROOT / "tests/netns/rootless_lab.py"
    drop = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    drop = drop if os.geteuid() == 0 else []
    if subprocess.run([*drop, "test", "-r", program]).returncode != 0:
        pytest.skip("an ordinary user cannot read this checkout")
    if subprocess.run([*drop, "unshare", "-Urn", "true"]).returncode != 0:
        pytest.skip("this kernel does not let an ordinary user make namespaces")
    environment = {**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}
    argv = [*drop, "/usr/bin/python3", "-P", str(program)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=90, cwd="/")
    assert (done.returncode, done.stdout.split()) == (0, ["hook", "ran", "took", "over", "came", "back"]), (
        done.stderr
    )
