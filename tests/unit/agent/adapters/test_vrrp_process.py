# SPDX-License-Identifier: GPL-2.0-or-later
"""keepalived's VRRP process, played by real processes with its name."""

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.adapters.vrrp_process import VrrpProcess

needs_root = pytest.mark.root(reason="only root can be another user")
Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that is called as asked, and ends it with the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start_one(name: str) -> "subprocess.Popen[bytes]":
        program = tmp_path / name
        if not program.exists():
            shutil.copy("/bin/sleep", program)
        running.append(subprocess.Popen([program, "60"]))
        # the kernel gives it its name a moment after Popen knows that it runs
        while Path(f"/proc/{running[-1].pid}/comm").read_text().strip() != name[:15]:
            os.sched_yield()
        return running[-1]

    yield start_one
    for each in running:
        each.kill()
        each.wait()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[VrrpProcess]:
    process = VrrpProcess(tmp_path / "vrrp.pid")
    yield process
    process.close()


def write_pid(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "vrrp.pid").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_no_file(watched: VrrpProcess) -> None:
    assert not watched.is_alive()
    assert watched.fileno() is None


GARBAGE = [
    b"", b"\n", b"x", b"-1\n", b"0\n", b"1.5", b"\xff\xfe", b"12 34", b"0x10", b"9" * 30, b"9" * 5000,
    b"\0" * 64, b"4194305\n", b"2147483648\n",
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:12]))
def test_a_file_with_garbage(watched: VrrpProcess, tmp_path: Path, garbage: bytes) -> None:
    write_pid(tmp_path, garbage)
    assert not watched.is_alive()


def test_a_directory_in_its_place(watched: VrrpProcess, tmp_path: Path) -> None:
    (tmp_path / "vrrp.pid").mkdir()
    assert not watched.is_alive()


def test_a_stale_file(watched: VrrpProcess, tmp_path: Path, start: Start) -> None:
    process = start("keepalived")
    process.kill()
    process.wait()
    write_pid(tmp_path, f"{process.pid}\n")
    assert not watched.is_alive()


def test_a_zombie_does_not_live(watched: VrrpProcess, tmp_path: Path, start: Start) -> None:
    process = start("keepalived")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    write_pid(tmp_path, f"{process.pid}\n")
    assert not watched.is_alive()


def test_the_pid_of_another_program(watched: VrrpProcess, tmp_path: Path, start: Start) -> None:
    write_pid(tmp_path, f"{start('somebody').pid}\n")
    assert not watched.is_alive()


def test_alive_and_then_dead_at_once(watched: VrrpProcess, tmp_path: Path, start: Start) -> None:
    async def scenario() -> None:
        process = start("keepalived")
        write_pid(tmp_path, f"{process.pid}\n")
        assert watched.is_alive()
        descriptor = watched.fileno()
        assert descriptor is not None
        died = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, died.set)
        try:
            assert not died.is_set()
            process.kill()
            async with asyncio.timeout(5):
                await died.wait()
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
        assert not watched.is_alive()
        assert watched.fileno() is None

    asyncio.run(scenario())


def test_a_restarted_process_is_found(watched: VrrpProcess, tmp_path: Path, start: Start) -> None:
    first = start("keepalived")
    write_pid(tmp_path, f"{first.pid}\n")
    assert watched.is_alive()
    before = watched.fileno()
    second = start("keepalived_vrrp")
    write_pid(tmp_path, f"{second.pid}\n")
    first.kill()
    first.wait()
    assert watched.is_alive()
    # whoever watches descriptors must see that this is another process
    assert watched.fileno() != before
    second.kill()
    second.wait()
    assert not watched.is_alive()


def test_no_descriptor_is_left_open(tmp_path: Path, start: Start) -> None:
    before = len(os.listdir("/proc/self/fd"))
    process = VrrpProcess(tmp_path / "vrrp.pid")
    for name in ("keepalived", "somebody", "keepalived"):
        child = start(name)
        write_pid(tmp_path, f"{child.pid}\n")
        process.is_alive()
        child.kill()
        with suppress(ChildProcessError):
            child.wait()
        process.is_alive()
    assert len(os.listdir("/proc/self/fd")) == before
    process.close()


MAIN = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.argv[1], "60"])
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def pair_of(tmp_path: Path, start: Start) -> Iterator[tuple[int, int]]:
    """A main process called keepalived, and the child that it has started."""
    start("keepalived").kill()
    shutil.copy(os.path.realpath(sys.executable), tmp_path / "keepalived-main")
    program, child = tmp_path / "keepalived-main", tmp_path / "keepalived"
    argv: list[str | Path] = [program, "-I", "-c", MAIN, child]
    environment = {"PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as main:
        assert main.stdout
        pid = int(main.stdout.readline())
        while Path(f"/proc/{pid}/comm").read_text().strip() != "keepalived":
            os.sched_yield()
        yield main.pid, pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        main.kill()


def test_who_has_the_name_on_the_bus_needs_no_file(watched: VrrpProcess, start: Start) -> None:
    process = start("keepalived")
    assert watched.is_alive(process.pid)
    assert watched.pid == process.pid
    process.kill()
    process.wait()
    assert not watched.is_alive(process.pid)


def test_the_file_may_name_a_dead_or_another_one(watched: VrrpProcess, tmp_path: Path, start: Start) -> None:
    stale, alive = start("keepalived"), start("keepalived")
    write_pid(tmp_path, f"{stale.pid}\n")
    assert watched.is_alive(alive.pid)
    assert watched.pid == alive.pid
    assert not watched.file_is_right()
    write_pid(tmp_path, f"{alive.pid}\n")
    assert watched.file_is_right()


@pytest.mark.parametrize("written", ["main", "child", "garbage", None])
def test_the_child_is_found_whatever_the_file_says(
    tmp_path: Path, pair_of: tuple[int, int], written: str | None
) -> None:
    main, child = pair_of
    (tmp_path / "keepalived.pid").write_text(f"{main}\n")
    if written:
        write_pid(tmp_path, {"main": f"{main}\n", "child": f"{child}\n", "garbage": "x"}[written])
    process = VrrpProcess(tmp_path / "vrrp.pid", tmp_path / "keepalived.pid")
    assert process.is_alive()
    assert process.pid == child
    process.close()


OF_A_USER = """
import os, signal, sys
with open("/proc/self/comm", "w") as name:
    name.write("keepalived")
if sys.argv[1] == "as a program that becomes root":
    os.setresuid(65534, 0, 0)
else:
    os.setuid(65534)
child = os.fork()
if child:
    print(child, flush=True)
signal.pause()
"""


@needs_root
@pytest.mark.parametrize("how", ["as that user", "as a program that becomes root"])
@pytest.mark.parametrize("written", ["main", "child", None])
def test_a_users_process_of_that_name_is_nobody(tmp_path: Path, written: str | None, how: str) -> None:
    """While keepalived is dead, also when the user's have got the numbers in its files."""
    argv = [sys.executable, "-I", "-c", OF_A_USER, how]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout
        child = int(main.stdout.readline())
        try:
            if written:
                write_pid(tmp_path, f"{main.pid if written == 'main' else child}\n")
                (tmp_path / "keepalived.pid").write_text(f"{main.pid}\n")
            process = VrrpProcess(tmp_path / "vrrp.pid", tmp_path / "keepalived.pid")
            assert not process.is_alive()
            assert not process.is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)
            main.kill()


def test_the_main_process_alone_is_no_proof(tmp_path: Path, pair_of: tuple[int, int]) -> None:
    """It lives for a moment longer than its child, and starts another one."""
    main, child = pair_of
    dies = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    select.select([dies], [], [], 60)  # for a moment it still runs
    os.close(dies)
    for name in ("keepalived.pid", "vrrp.pid"):
        (tmp_path / name).write_text(f"{main}\n")
    process = VrrpProcess(tmp_path / "vrrp.pid", tmp_path / "keepalived.pid")
    assert not process.is_alive()


def test_a_main_process_that_is_stopped(tmp_path: Path, pair_of: tuple[int, int]) -> None:
    """Whether its VRRP process lives or not."""
    main, child = pair_of
    (tmp_path / "keepalived.pid").write_text(f"{main}\n")
    process = VrrpProcess(tmp_path / "vrrp.pid", tmp_path / "keepalived.pid")
    assert process.is_alive(child)
    assert process.halted() == {}
    os.kill(main, signal.SIGSTOP)
    os.waitid(os.P_PID, main, os.WSTOPPED | os.WNOWAIT)
    assert process.halted() == {main: "T"}
    process.close()
    assert process.halted() == {main: "T"}
    os.kill(main, signal.SIGCONT)
    os.waitid(os.P_PID, main, os.WCONTINUED | os.WNOWAIT)
    assert process.halted() == {}


def test_a_fifo_in_its_place_holds_up_nothing(watched: VrrpProcess, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "vrrp.pid")
    assert not watched.is_alive()


def test_a_stopped_process_is_alive_and_seen_to_be_stopped(watched: VrrpProcess, start: Start) -> None:
    process = start("keepalived")
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert watched.is_alive(process.pid)
    stat = watched.stat()
    assert stat is not None
    assert stat.state == "T"
    assert stat.parent == os.getpid()
    assert abs(stat.started_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 60e9


def test_a_number_of_another_pid_namespace_is_nobody(
    watched: VrrpProcess, start: Start, tmp_path: Path
) -> None:
    """The bus of the host tells its own number, which may be that of any program here."""
    keepalived, other = start("keepalived"), start("sshd")
    write_pid(tmp_path, f"{keepalived.pid}\n")
    assert watched.is_alive(other.pid)
    assert watched.pid == keepalived.pid
    before = watched.fileno()
    assert watched.is_alive(other.pid)
    assert watched.fileno() == before, "looked for again each time"
    other.kill()
    other.wait()
    assert watched.is_alive(other.pid)
