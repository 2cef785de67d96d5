# SPDX-License-Identifier: GPL-2.0-or-later
"""The one place that starts programs: what it gives them, and that it always ends them."""

import asyncio
import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.adapters import process
from agent.adapters.process import in_child
from agent.errors import NoCopyError, ToolError

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), os.getsid(0)]))"


@pytest.fixture(autouse=True, params=["pidfd", "default"])
def child_watcher(request: pytest.FixtureRequest) -> Iterator[None]:
    """As the agent has it, and as tests and other programs find it."""
    if request.param == "pidfd":
        process.use_pidfd_children()
    yield
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.ThreadedChildWatcher())


def run(*argv: str, timeout_s: float = 10.0) -> process.Finished:
    return asyncio.run(process.run(argv, timeout_s=timeout_s))


def is_gone(pid: int) -> bool:
    """True also for a zombie that its new parent has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        os.sched_yield()


def test_a_program_gets_its_arguments_as_they_are_and_a_fixed_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    words = ("a b", "$HOME", "*", "'", '"', "\n", ";id", "-x", "é")
    argv = ("/usr/bin/python3", "-IS", "-c", SHOW, *words)
    arguments, environment, directory, session = json.loads(run(*argv).stdout)
    assert tuple(arguments) == words
    # LC_CTYPE is Python's own addition where the locale is C
    assert {name: text for name, text in environment.items() if name != "LC_CTYPE"} == process.ENVIRONMENT
    assert directory == "/"
    assert session != os.getsid(0)


def test_exit_status_and_both_streams_come_back() -> None:
    assert run("/bin/sh", "-c", "echo out; echo err >&2; exit 3") == process.Finished(3, "out\n", "err\n")


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert run("/usr/bin/printf", r"\377\n").stdout == "\ufffd\n"


def test_nothing_to_read_from() -> None:
    assert run("/bin/cat").stdout == ""


@pytest.mark.parametrize("name", ["/nonexistent/tool", "/etc/passwd", "/"])
def test_a_program_that_cannot_be_started(name: str) -> None:
    with pytest.raises(ToolError, match=f"cannot start {name}: ") as raised:
        run(name)
    assert not raised.value.retryable


def test_a_program_that_never_ends_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    begun = time.monotonic()
    with pytest.raises(ToolError, match=r"did not answer within 0.3 s") as raised:
        run("/bin/sh", "-c", f"trap '' TERM; sleep 60 & echo $$ $! > {pids}; wait", timeout_s=0.3)
    assert raised.value.retryable
    assert time.monotonic() - begun < 5
    for pid in pids.read_text().split():
        wait_until_gone(int(pid))


def test_a_child_of_a_program_that_keeps_the_output_open(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(ToolError, match="did not answer"):
        run("/bin/sh", "-c", f"sleep 60 & echo $! > {pid}", timeout_s=0.3)
    wait_until_gone(int(pid.read_text()))


@pytest.mark.parametrize("redirection", ["", ">&2"])
def test_output_without_end_is_cut_off(redirection: str) -> None:
    with pytest.raises(ToolError, match="printed more than 1 MiB") as raised:
        run("/bin/sh", "-c", f"yes {redirection}")
    assert not raised.value.retryable


def test_both_streams_without_end() -> None:
    with pytest.raises(ToolError, match="printed more than 1 MiB"):
        run("/bin/sh", "-c", "yes & yes >&2")


def test_cancelling_kills(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    os.mkfifo(pid)

    async def scenario() -> int:
        task = asyncio.create_task(
            process.run(("/bin/sh", "-c", f"echo $$ > {pid}; exec sleep 60"), timeout_s=60)
        )
        child = int(await asyncio.to_thread(pid.read_text))
        os.kill(child, 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return child

    wait_until_gone(asyncio.run(scenario()))


def test_a_program_that_was_killed_by_another_program_ends_with_its_signal() -> None:
    assert run("/bin/sh", "-c", "kill -9 $$").exit_status == -signal.SIGKILL


def test_a_copy_answers_with_what_it_finds_and_changes_nothing_here() -> None:
    found = [1]

    def job() -> tuple[int, list[int]]:
        found.append(2)
        return os.getpid(), found

    pid, answer = in_child(job)
    assert pid != os.getpid()
    assert answer == [1, 2]
    assert found == [1]


def test_an_error_of_a_copy_is_the_same_here() -> None:
    def job() -> None:
        raise ToolError(("nft", "-j"), "nft cannot", exit_status=3, stderr="no", retryable=True, hint="do")

    with pytest.raises(ToolError) as raised:
        in_child(job)
    error = raised.value
    assert (str(error), error.argv, error.exit_status) == ("nft cannot; do", ("nft", "-j"), 3)
    assert (error.stderr, error.retryable) == ("no", True)


@pytest.mark.parametrize(
    "end", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(7), lambda: 1 // 0]
)
def test_a_copy_that_ends_before_its_work_is_done(end: Callable[[], object]) -> None:
    with pytest.raises(ToolError, match=r"ended with .* before it was finished"):
        in_child(end)


def test_an_answer_of_any_size_comes_whole() -> None:
    assert in_child(lambda: "x" * 5_000_000) == "x" * 5_000_000


@pytest.mark.parametrize("blocked", [(), (signal.SIGALRM,)], ids=["", "SIGALRM is blocked"])
def test_a_copy_that_hangs_is_ended(
    blocked: tuple[signal.Signals, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COPY_LIMIT_S", 1)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with pytest.raises(ToolError, match="before it was finished"):
            in_child(lambda: time.sleep(10))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_what_the_loop_is_in_the_middle_of_does_not_keep_a_copy_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lock would stay held in a copy that is made now."""
    monkeypatch.setattr(process, "COPY_LIMIT_S", 5)
    held = threading.Lock()

    def take_it() -> bool:
        with held:
            return True

    async def scenario() -> bool:
        running = asyncio.get_running_loop()
        asked = threading.Event()

        def ask() -> bool:
            asked.set()
            return in_child(take_it, running)

        with held:
            found = running.run_in_executor(None, ask)
            asked.wait()
            time.sleep(0.2)  # it is being asked for
        return await found

    assert asyncio.run(scenario())


def test_the_loop_itself_cannot_wait_for_itself() -> None:
    async def scenario() -> None:
        in_child(lambda: 1, asyncio.get_running_loop())

    with pytest.raises(AssertionError, match="wait for itself"):
        asyncio.run(scenario())


@pytest.mark.parametrize("closed", [True, False])
def test_without_turns_of_the_loop_there_is_no_copy(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[None] = []
    monkeypatch.setattr(process, "TURN_LIMIT_S", 0.05)
    monkeypatch.setattr(process, "_start_copy", lambda _: copied.append(None))
    loop = asyncio.new_event_loop()
    if closed:
        loop.close()
    try:
        with pytest.raises(NoCopyError, match="its event loop has ended, or hangs") as raised:
            in_child(lambda: 1, loop)
    finally:
        if not closed:
            loop.run_until_complete(asyncio.sleep(0))  # what it was asked for meanwhile is not done
            loop.close()
    assert raised.value.retryable
    assert not copied


@pytest.mark.parametrize("call", ["pipe", "fork"])
def test_where_there_can_be_no_copy_that_is_said_and_nothing_is_left_open(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(
            NoCopyError, match="cannot start a process of the agent: Resource temporarily"
        ) as raised:
            in_child(lambda: 1)
    assert raised.value.retryable
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_module_of_ours_gets_its_input_and_answers() -> None:
    given = b'{"a": [1, 2]}' + b" " * 300_000
    answer = asyncio.run(process.run_own("json.tool", given, timeout_s=30, max_output=1000))
    assert json.loads(answer) == {"a": [1, 2]}


def test_a_module_of_ours_that_fails_or_says_too_much_is_an_error() -> None:
    with pytest.raises(ToolError, match=r"json\.tool ended with 1: .*Expecting"):
        asyncio.run(process.run_own("json.tool", b"{", timeout_s=30, max_output=1000))
    with pytest.raises(ToolError, match="printed more than"):
        asyncio.run(process.run_own("json.tool", b"[1, 2]", timeout_s=30, max_output=5))
