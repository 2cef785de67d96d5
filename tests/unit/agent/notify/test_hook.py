# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook as keepalived runs it: a process of its own, in whatever surroundings."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.adapters.notices import MAX_BYTES, Notice, NoticeSocket
from agent.core.assess import VrrpState
from tests.checkout import ROOT

HOOK = ROOT / "agent" / "notify" / "hook.py"
LIMIT_S = 20
USUAL = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

needs_root = pytest.mark.root(reason="the places that the hook knows need root")

# the places that the hook knows, in a mount namespace of its own; the fake agent tells who it is, and waits
SET_UP = r"""
mount -t tmpfs none /run && mkdir /run/hafw && mount -t tmpfs none /usr/sbin && mkfifo /run/calls /run/go
cat > /usr/sbin/hafw <<'END'
#!/bin/sh
session=$(/usr/bin/cut -d' ' -f6 /proc/$$/stat) environment=$(/usr/bin/env | /usr/bin/tr '\n' ' ')
echo "$*|$session|$$|$environment" > /run/calls
read -r word < /run/go
echo "$word" > /run/calls
END
chmod 755 /usr/sbin/hafw && echo ready && exec cat
"""


@dataclass
class Place:
    """A mount namespace with the hook's surroundings, seen from outside under `root`."""

    pid: int
    heard: list[Notice] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = Path(f"/proc/{self.pid}/root")
        self.socket = NoticeSocket(self.heard.append, self.refused.append)
        self.calls = os.open(self.root / "run/calls", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def argv(self, *arguments: str | bytes) -> list[str | bytes]:
        return ["/usr/bin/nsenter", f"--mount=/proc/{self.pid}/ns/mnt", str(HOOK), *arguments]

    def hook(
        self, *arguments: str | bytes, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            self.argv(*arguments),
            env=env or USUAL,
            cwd=cwd,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )

    def listen(self) -> None:
        self.socket.listen(self.root / "run/hafw/notify.sock")

    def next_call(self) -> list[str]:
        """What the fake agent said next: its arguments, session, process id and environment."""
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.calls], [], [], LIMIT_S)
            assert ready, f"nobody called the agent: {line!r}"
            line += os.read(self.calls, 1)
        return line.decode().strip().split("|")

    def was_called(self) -> bool:
        """Whether somebody calls the agent within a moment that is long enough for it."""
        return bool(select.select([self.calls], [], [], 0.3)[0])

    def let_go(self) -> None:
        (self.root / "run/go").write_text("done\n")
        assert self.next_call() == ["done"]


@pytest.fixture
def place() -> Iterator[Place]:
    argv = ["unshare", "-m", "--propagation", "private", "/bin/sh", "-ec", SET_UP]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"ready\n"
        made = Place(holder.pid)
        yield made
        made.socket.close()
        os.close(made.calls)
        holder.stdin.close()


def test_it_needs_no_module_that_has_to_be_looked_for() -> None:
    program = f"import sys; before = set(sys.modules); __name__ = 'hook'; exec(open({str(HOOK)!r}).read())"
    program += "; print(set(sys.modules) - before - set(sys.builtin_module_names))"
    assert subprocess.check_output(["/usr/bin/python3", "-ISc", program], timeout=LIMIT_S) == b"set()\n"


GOOD = {
    ("INSTANCE", "VI_1", "MASTER", "150"): ("INSTANCE", "VI_1", VrrpState.MASTER),
    ("GROUP", "G1", "BACKUP", "0"): ("GROUP", "G1", VrrpState.BACKUP),
    ("INSTANCE", "eth0.1 (v6)", "FAULT", "255"): ("INSTANCE", "eth0.1 (v6)", VrrpState.FAULT),
    ("INSTANCE", "x" * 255, "STOP", "1"): ("INSTANCE", "x" * 255, VrrpState.STOP),
    ("INSTANCE", "VI_1", "DELETED", "1"): ("INSTANCE", "VI_1", VrrpState.DELETED),
    ("master",): ("GROUP", "-", VrrpState.MASTER),
    ("BACKUP",): ("GROUP", "-", VrrpState.BACKUP),
    ("fault",): ("GROUP", "-", VrrpState.FAULT),
    ("stop",): ("GROUP", "-", VrrpState.STOP),
}


@needs_root
@pytest.mark.parametrize("arguments", GOOD, ids=" ".join)
def test_it_hands_over_to_the_agent(place: Place, arguments: tuple[str, ...]) -> None:
    place.listen()
    before = time.monotonic_ns()
    done = place.hook(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    place.socket.receive()
    (notice,) = place.heard
    assert (notice.kind, notice.name, notice.state) == GOOD[arguments]
    assert before < notice.sent_ns < time.monotonic_ns()
    assert place.refused == []


HOSTILE: dict[str, tuple[str | bytes, ...]] = {
    "no arguments": (),
    "an unknown type": ("THING", "VI_1", "MASTER", "100"),
    "a type in small letters": ("group", "VI_1", "MASTER", "100"),
    "an unknown state": ("GROUP", "G1", "KING", "100"),
    "a lone unknown state": ("king",),
    "two arguments": ("GROUP", "G1"),
    "three arguments": ("GROUP", "G1", "MASTER"),
    "too many": ("GROUP", "G1", "MASTER", "100", "more"),
    "a hundred": ("GROUP",) * 100,
    "an option": ("--help",),
    "empty": ("",),
    "an empty name": ("GROUP", "", "MASTER", "100"),
    "a quoted name": ("GROUP", '"G1"', "MASTER", "100"),
    "a newline": ("GROUP", "G1\nMASTER", "MASTER", "100"),
    "a newline in the state": ("GROUP", "G1", "MASTER\n", "100"),
    "a path": ("GROUP", "../../etc/passwd", "MASTER", "100"),
    "an escape": ("GROUP", "\x1b[2J", "MASTER", "100"),
    "not ASCII": ("GROUP", "Gé", "MASTER", "100"),
    "a state that only looks like one": ("ſtop",),
    "invalid UTF-8": (b"GROUP", b"\xff\xfe", b"MASTER", b"100"),
    "invalid UTF-8 everywhere": (b"\xff", b"\xff", b"\xff", b"\xff"),
    "invalid UTF-8 alone": (b"\xff",),
    "4 KiB of a name": ("GROUP", "x" * 4096, "MASTER", "100"),
    "4 KiB of a state": ("x" * 4096,),
    "256 letters": ("GROUP", "x" * 256, "MASTER", "100"),
    "no priority": ("GROUP", "G1", "MASTER", ""),
    "a negative priority": ("GROUP", "G1", "MASTER", "-1"),
    "a priority of 256": ("GROUP", "G1", "MASTER", "256"),
    "4 KiB of zeros": ("GROUP", "G1", "MASTER", "0" * 4096),
    "a priority with garbage behind": ("GROUP", "G1", "MASTER", "10 0"),
    "digits of another script": ("GROUP", "G1", "MASTER", "１００"),
}


@needs_root
@pytest.mark.parametrize("what", HOSTILE)
def test_other_arguments_are_refused_in_one_sentence(place: Place, what: str) -> None:
    place.listen()
    done = place.hook(*HOSTILE[what])
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"hafw notify: ")
    assert done.stderr.count(b"\n") == 1, "one sentence"
    assert done.stderr.endswith(b"\n")
    assert len(done.stderr) < 300
    assert done.stderr.decode().rstrip("\n").isprintable()
    place.socket.receive()
    assert (place.heard, place.refused) == ([], [])


@needs_root
def test_other_arguments_start_nothing_either(place: Place) -> None:
    assert place.hook("GROUP", "../x", "MASTER", "100").returncode == 2
    assert not place.was_called()


def make_trap(directory: Path) -> Path:
    """Modules that would be found by a careless interpreter, and leave a mark."""
    mark = directory / "mark"
    for name in ("time", "posix", "_socket", "sitecustomize", "usercustomize", "encodings", "io", "codecs"):
        (directory / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    return mark


@needs_root
def test_hostile_surroundings_change_nothing(place: Place, tmp_path: Path) -> None:
    place.listen()
    mark = make_trap(tmp_path)
    trap = str(tmp_path)
    env = {
        "PYTHONPATH": trap,
        "PYTHONHOME": trap,
        "PYTHONSTARTUP": str(tmp_path / "time.py"),
        "PYTHONUSERBASE": trap,
        "PYTHONINSPECT": "1",
        "PYTHONWARNINGS": "error",
        "PYTHONBREAKPOINT": "time.sleep",
        "PYTHONIOENCODING": "utf-7",
        "PATH": trap,
        "LD_PRELOAD": "/nonexistent/evil.so",
        "LD_LIBRARY_PATH": trap,
        "IFS": "/",
        "BASH_ENV": str(tmp_path / "time.py"),
        "ENV": str(tmp_path / "time.py"),
        "LC_ALL": "xx_YY.KOI8-R",
    }
    done = place.hook("GROUP", "G1", "MASTER", "100", env=env, cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if not line.startswith(b"ERROR: ld.so:")]
    assert (done.returncode, done.stdout, said) == (0, b"", [])
    place.socket.receive()
    assert [notice.state for notice in place.heard] == [VrrpState.MASTER]
    assert not mark.exists()


@needs_root
def test_a_hostile_environment_does_not_reach_what_it_starts(place: Place) -> None:
    env = {"PYTHONPATH": "/x", "IFS": "/", "PATH": "/x", "HAFW": "1", "LD_LIBRARY_PATH": "/x"}
    assert place.hook("MASTER", env=env).returncode == 0
    words, _, _, environment = place.next_call()
    names = {entry.partition("=")[0] for entry in environment.split()}
    assert words == "settle"
    assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", "LC_ALL"}
    assert "/x" not in environment
    place.let_go()


@needs_root
def test_without_an_agent_it_starts_one_run_that_survives_it(place: Place) -> None:
    hook = subprocess.Popen(place.argv("GROUP", "G1", "MASTER", "100"), env=USUAL, process_group=0)
    assert hook.wait(LIMIT_S) == 0, "it waits for what it has started"
    words, session, pid, _ = place.next_call()
    assert words == "settle"
    # a leader of its own session: what keepalived sends to its script's process group does not reach it
    assert session == pid != str(hook.pid)
    # that nobody is left in it is as good
    with suppress(ProcessLookupError):
        os.killpg(hook.pid, signal.SIGTERM)
    assert not place.was_called(), "it was started more than once"
    place.let_go()


@needs_root
def test_what_it_starts_survives_the_death_of_keepalived(place: Place) -> None:
    """keepalived's scripts get SIGTERM when keepalived dies (PR_SET_PDEATHSIG)."""
    program = """
import ctypes, os, subprocess, sys
ask = lambda: ctypes.CDLL(None).prctl(1, 15)
subprocess.run(sys.argv[1:], preexec_fn=ask)
os.kill(os.getpid(), 9)
"""
    argv = [sys.executable, "-Ic", program, *place.argv("GROUP", "G1", "MASTER", "100")]
    assert subprocess.run(argv, env=USUAL, timeout=LIMIT_S, check=False).returncode == -signal.SIGKILL
    assert place.next_call()[0] == "settle"
    place.let_go()


@needs_root
def test_a_socket_that_a_dead_agent_left_counts_as_no_agent(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(place.root / "run/hafw/notify.sock"))
    assert place.hook("MASTER").returncode == 0
    assert place.next_call()[0] == "settle"
    place.let_go()


@needs_root
def test_no_program_to_start_is_no_reason_to_fail(place: Place) -> None:
    (place.root / "usr/sbin/hafw").unlink()
    done = place.hook("MASTER")
    assert (done.returncode, done.stderr) == (0, b"")


@needs_root
def test_a_full_queue_does_not_hold_it_up(place: Place) -> None:
    place.listen()
    for _ in range(30):
        begun = time.monotonic()
        assert place.hook("GROUP", "G1", "MASTER", "100").returncode == 0
        assert time.monotonic() - begun < 5
    assert not place.was_called(), "the agent is there, however busy"
    place.socket.receive()
    assert 1 <= len(place.heard) < 30


@needs_root
def test_ten_at_once_are_ten_notices(place: Place) -> None:
    place.listen()

    async def scenario() -> None:
        running = asyncio.get_running_loop()
        running.add_reader(place.socket.fileno(), place.socket.receive)
        hooks = [
            await asyncio.create_subprocess_exec(
                *place.argv("INSTANCE", f"VI_{n}", "MASTER", "100"), env=USUAL
            )
            for n in range(10)
        ]
        async with asyncio.timeout(LIMIT_S):
            assert [await hook.wait() for hook in hooks] == [0] * 10
        place.socket.receive()
        running.remove_reader(place.socket.fileno())

    asyncio.run(scenario())
    assert sorted(notice.name for notice in place.heard) == [f"VI_{n}" for n in range(10)]
    assert place.refused == []


@needs_root
def test_ten_at_once_without_an_agent_all_ask_for_a_run(place: Place) -> None:
    """Each starts its own; that only one of them works at a time is what `hafw settle` sees to."""
    hooks = [
        subprocess.Popen(place.argv("INSTANCE", f"VI_{n}", "MASTER", "100"), env=USUAL) for n in range(10)
    ]
    assert [hook.wait(LIMIT_S) for hook in hooks] == [0] * 10
    calls = [place.next_call() for _ in range(10)]
    assert {call[0] for call in calls} == {"settle"}
    assert len({call[1] for call in calls}) == 10
    for call in calls:
        os.kill(int(call[2]), signal.SIGKILL)


def test_the_longest_notice_fits() -> None:
    longest = "\0".join(("hafw1", "INSTANCE", "x" * 255, "DELETED", "255", "9" * 19, "9" * 9, "end"))
    assert len(longest) < MAX_BYTES
