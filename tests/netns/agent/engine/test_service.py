# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw agent` under a service manager, with no keepalived, no conntrackd and no bus: what it says and when,
what waits for it in its socket, and how it ends. The manager is a socket of the test's; the rest is real."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hafw_lab.client.records import Record, parse_records
from tests.checkout import ROOT
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

LIMIT_S = 60
SET_UP = """
for place in /run /var/log /var/lib /etc/conntrackd /etc/keepalived; do mount -t tmpfs none $place; done
ip link set lo up
for name in eth0 eth1 eth2; do
    ip link add $name type veth peer name far-$name && ip link set $name up && ip link set far-$name up
done
mkdir -p /run/hafw && echo ready && exec cat
"""
ARGUMENTS = ("--file", str(ROOT / "examples" / "pair.yaml"), "--node", "fw-1")
# LISTEN_PID is the agent's own: nsenter and exec keep it
AS_SERVICE = (
    'LISTEN_PID=$$ LISTEN_FDS=1 exec nsenter -m -n -t "$PLACE" /usr/bin/python3 -P "$@" 3<&"$LISTENER"'
)
WITH_A_BUG = """
import sys
from agent.cli import main
from agent.engine import observer

def broken(self, notice):
    raise ValueError("a bug in a callback")

async def broken_task(self):
    await self.replication.check()
    raise ValueError("a bug in a task")

observer.Observer.{place}
sys.exit(main.main(["agent", *sys.argv[1:]]))
"""
IN_A_CALLBACK = WITH_A_BUG.format(place="_noticed = broken")
"""An ear of the agent's breaks at the first notice."""
IN_A_TASK = WITH_A_BUG.format(place="_poll = broken_task")


class Said:
    """What a service manager hears. `words` has all of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(str(path))
        self.words: list[str] = []

    def hear(self) -> list[str]:
        while select.select([self.socket], [], [], 0)[0]:
            self.words += self.socket.recv(4096).decode().splitlines()
        return self.words

    def until(self, word: str) -> None:
        until(lambda: word in self.hear(), LIMIT_S, lambda: f"{word} was not said: {self.words}")


@dataclass(frozen=True, slots=True)
class Place:
    """Namespaces with a socket for notices, as hafw-agent.socket makes it."""

    pid: int
    listener: socket.socket
    said: Said

    @contextmanager
    def agent(self, *program: str, watchdog_s: float = 15) -> Iterator["subprocess.Popen[str]"]:
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(self.said.path),
            "WATCHDOG_USEC": str(round(watchdog_s * 1e6)),
            "PLACE": str(self.pid),
            "LISTENER": str(self.listener.fileno()),
        }
        program = program or ("-m", "agent", "agent")
        with subprocess.Popen(
            ["/bin/bash", "-c", AS_SERVICE, "bash", *program, *ARGUMENTS],
            env=environment,
            pass_fds=[self.listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.pid}/root")

    def hook(self, state: str) -> None:
        argv = [
            "nsenter",
            "-m",
            "-t",
            str(self.pid),
            "/usr/bin/python3",
            "-IS",
            str(ROOT / "agent/notify/hook.py"),
            state,
        ]
        subprocess.run(argv, check=True, timeout=LIMIT_S)

    def records(self) -> tuple[Record, ...]:
        return parse_records((self.root / "var/log/hafw/agent.jsonl").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    argv = ["unshare", "-mn", "--propagation", "private", "/bin/sh", "-ec", SET_UP]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"ready\n"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.bind(f"/proc/{holder.pid}/root/run/hafw/notify.sock")
        said = Said(tmp_path / "notify")
        with closing(listener), closing(said.socket):
            yield Place(holder.pid, listener, said)
        holder.stdin.close()


def end(agent: "subprocess.Popen[str]") -> str:
    """By SIGTERM, as a manager ends it; returns its last words on stderr, which the journal would have."""
    agent.send_signal(signal.SIGTERM)
    _, errors = agent.communicate(timeout=LIMIT_S)
    assert agent.returncode == 0, errors
    return errors


def test_it_is_ready_without_anybody_else_and_says_how_it_is(place: Place) -> None:
    with place.agent() as agent:
        place.said.until("READY=1")
        table = subprocess.run(
            ["nsenter", "-n", "-t", str(place.pid), "nft", "list", "table", "inet", "hafw"],
            capture_output=True,
        )
        assert table.returncode == 0, "ready means that the rules are in force"
        place.said.until(
            "STATUS=stopped, gate closed, problems: conntrackd, keepalived, no-primary, peer-key, sync-link"
        )
        before = len(place.said.words)
        agent.send_signal(signal.SIGHUP)
        until(lambda: "READY=1" in place.said.hear()[before:], LIMIT_S, "the reload does not end")
        reload = place.said.words[before:]
        assert reload.index("RELOADING=1") + 1 == [word[:14] for word in reload].index("MONOTONIC_USEC")
        assert reload.index("RELOADING=1") < reload.index("READY=1")
        assert end(agent) == "", "what is recorded is not said on stderr as well"
    assert place.said.hear()[-1] == "STOPPING=1"
    assert "hafw agent has stopped (SIGTERM); rules" in last_record(place)


def last_record(place: Place) -> str:
    return str(place.records()[-1]["message"])


def test_what_came_while_it_was_away_is_taken_at_its_start(place: Place) -> None:
    with place.agent() as agent:
        place.said.until("READY=1")
        end(agent)
    assert (place.root / "run/hafw/notify.sock").is_socket(), "the socket is not the agent's to remove"
    place.hook("FAULT")
    place.hook("BACKUP")
    assert "settle" not in " ".join(commands_of(place)), "the hook knows that somebody will read it"
    since = time.monotonic_ns()
    with place.agent() as agent:
        until(lambda: waiting(place.listener) == 0, LIMIT_S, "nobody reads the notices")
        place.said.until("READY=1")
        end(agent)
    refused = [
        one for one in place.records() if one["event"] == "refused" and int(str(one["mono_ns"])) > since
    ]
    assert refused == []


def waiting(listener: socket.socket) -> int:
    """Whether a notice waits in the socket; looked at, not taken."""
    try:
        return len(listener.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


def commands_of(place: Place) -> list[str]:
    """The command lines of the processes in the place."""
    found = []
    mine = os.readlink(f"/proc/{place.pid}/ns/net")
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.readlink(entry / "ns/net") == mine:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_the_watchdog_is_fed_by_an_agent_that_works(place: Place) -> None:
    with place.agent(watchdog_s=0.4) as agent:
        until(lambda: place.said.hear().count("WATCHDOG=1") > 5, LIMIT_S, "the watchdog starves")
        agent.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, agent.pid, os.WSTOPPED | os.WNOWAIT)
            fed = place.said.hear().count("WATCHDOG=1")
            select.select([], [], [], 1)  # ten times the interval
            assert place.said.hear().count("WATCHDOG=1") == fed
            agent.send_signal(signal.SIGABRT)
        finally:
            agent.send_signal(signal.SIGCONT)
        _, errors = agent.communicate(timeout=LIMIT_S)
    assert agent.returncode == -signal.SIGABRT
    assert "Current thread" in errors, "a traceback says where it hung"


def test_a_bug_in_a_callback_ends_the_process(place: Place) -> None:
    with place.agent("-c", IN_A_CALLBACK) as agent:
        place.said.until("READY=1")
        place.hook("BACKUP")
        _, errors = agent.communicate(timeout=LIMIT_S)
    assert agent.returncode == 1
    assert errors.rstrip().endswith("ValueError: a bug in a callback")
    assert errors.count("Traceback") == 1
    assert "has stopped (ValueError: a bug in a callback at <string>:" in last_record(place)


def test_a_bug_in_a_task_ends_the_process(place: Place) -> None:
    with place.agent("-c", IN_A_TASK) as agent:
        _, errors = agent.communicate(timeout=LIMIT_S)
    assert agent.returncode == 1
    assert "ValueError: a bug in a task" in errors
    assert "has stopped (ValueError: a bug in a task at <string>:" in last_record(place)


def test_it_is_back_soon(place: Place) -> None:
    """Its own part of that: the manager waits a tenth of a second before it."""
    with place.agent() as agent:
        place.said.until("READY=1")
        agent.kill()
    place.said.words.clear()
    begun = time.monotonic()
    with place.agent() as agent:
        place.said.until("READY=1")
        took = time.monotonic() - begun
        end(agent)
    assert took < 10, "0.3 s where nothing else is to do"


# computes until it is no longer a real-time process, or forever where nothing of ours gets its turn
WITHOUT_A_PAUSE = """
import asyncio, itertools, os, sys, threading
from agent.cli import main
from agent.engine import observer
from agent.adapters import process, scheduling

scheduling.PATIENCE_S, scheduling.LONGEST_S = 1, 3
turns = {{"python": lambda: os.sched_getscheduler(0) & 0xff == os.SCHED_OTHER,
         "library": lambda: sum(itertools.repeat(0))}}

def compute_forever(self, notice):
    # a copy waits for the loop meanwhile: that is not to give the loop a pause
    copying = (lambda: 1, asyncio.get_running_loop())
    threading.Thread(target=process.in_child, args=copying, daemon=True).start()
    while not turns["{where}"]():
        pass

observer.Observer._noticed = compute_forever
sys.exit(main.main(["agent", *sys.argv[1:]]))
"""


def policy_of(process: "subprocess.Popen[str]") -> int:
    return os.sched_getscheduler(process.pid) & ~os.SCHED_RESET_ON_FORK


def overrun_by_the_notice(place: Place) -> bool:
    """A busy machine may make others of it."""
    said = [str(one["message"]) for one in place.records() if one["event"] == "overrun"]
    return any("compute_forever" in one or "<lambda>" in one for one in said)


def test_who_computes_too_long_gives_way_says_where_and_continues(place: Place) -> None:
    with place.agent("-c", WITHOUT_A_PAUSE.format(where="python")) as agent:
        place.said.until("READY=1")
        if policy_of(agent) != os.SCHED_RR:
            pytest.skip("no real-time priority is to be had here")
        place.hook("BACKUP")
        until(lambda: overrun_by_the_notice(place), LIMIT_S, "nothing is recorded of it")
        until(lambda: policy_of(agent) == os.SCHED_RR, LIMIT_S, "it does not get its place back")
        errors = end(agent)
    assert "Current thread" in errors
    assert "compute_forever" in errors


def test_who_computes_too_long_in_a_library_does_not_die_without_a_word(place: Place) -> None:
    with place.agent("-c", WITHOUT_A_PAUSE.format(where="library")) as agent:
        place.said.until("READY=1")
        if policy_of(agent) != os.SCHED_RR:
            pytest.skip("no real-time priority is to be had here")
        place.hook("BACKUP")
        _, errors = agent.communicate(timeout=LIMIT_S)
    assert agent.returncode == -signal.SIGKILL
    assert "compute_forever" in errors, "the stack says which step it was"
