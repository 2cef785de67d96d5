# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw-lab watch` and `graph` on a running lab, in a real terminal of 80 columns and 24 lines."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from hafw_lab.client import registry
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import DEFAULT
from tests.checkout import ROOT

pytestmark = pytest.mark.netns
COMMAND = ["/usr/bin/python3", "-P", "-m", "hafw_lab"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'host-tools'}",
    "NO_COLOR": "1",
    "LC_ALL": "C.UTF-8",
}


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    made = f"w-{uuid.uuid4().hex[:8]}"
    registry.up(made, LabOptions(), DEFAULT, lambda _: None)
    try:
        yield made
    finally:
        registry.down(made, lambda _: None)


class Terminal:
    def __init__(self, argv: list[str]) -> None:
        self._server = f"hafw-{uuid.uuid4().hex[:8]}"
        self._tmux("new-session", "-d", "-x", "80", "-y", "24", *argv)

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def read(self) -> str:
        return self._tmux("capture-pane", "-p", check=False)

    def close(self) -> None:
        self._tmux("kill-server", check=False)

    def _tmux(self, *argv: str, check: bool = True) -> str:
        command = ["tmux", "-f", "/dev/null", "-L", self._server, *argv]
        done = subprocess.run(
            command, env=ENVIRONMENT, text=True, capture_output=True, check=check, timeout=30
        )
        return done.stdout


@contextlib.contextmanager
def terminal(*argv: str) -> Iterator[Terminal]:
    one = Terminal([*COMMAND, *argv])
    try:
        yield one
    finally:
        one.close()


def until(what: Callable[[], bool], told: Callable[[], str], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)  # a terminal tells nobody that it has changed


def test_keys_cut_the_power_and_repair_it(name: str) -> None:
    with terminal("watch", "--name", name) as screen:
        until(lambda: "primary: fw-1" in screen.read(), screen.read)
        screen.press("p")
        until(lambda: "primary: fw-2" in screen.read() and "OFF" in screen.read(), screen.read)
        screen.press("h")
        until(lambda: "everything is repaired" in screen.read() and "OFF" not in screen.read(), screen.read)
        screen.press("q")
        until(lambda: "primary" not in screen.read(), screen.read)


def test_without_a_terminal_it_prints_one_picture(name: str) -> None:
    done = subprocess.run(
        [*COMMAND, "watch", "--name", name], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "gate" in done.stdout
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) <= 24


def test_the_graph_has_the_live_roles(name: str) -> None:
    argv = [*COMMAND, "graph", "--name", name]
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[primary]") == 3
    assert done.stdout.count("[backup]") == 3


def test_a_lab_that_is_not_up_is_said() -> None:
    done = subprocess.run(
        [*COMMAND, "watch", "--name", "nobody"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no lab 'nobody' is up" in done.stderr


@pytest.mark.parametrize("follow", [(), ("--follow",)], ids=["once", "follow"])
def test_a_terminal_shows_what_a_node_logs_and_obeys_none_of_it(name: str, follow: tuple[str, ...]) -> None:
    lab = registry.attach(name)
    hostile = r"\033]0;pwned\007\033[2J\302\233 31m\342\200\256 the log \r\n"
    lab.node("fw-1").run(["sh", "-c", f"printf '{hostile}' >/var/log/hostile.log"])
    lab.close()
    ours, theirs = pty.openpty()
    argv = [*COMMAND, "logs", "--name", name, "fw-1", "hostile", *follow]
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT) as process:
        os.close(theirs)
        said, until = b"", time.monotonic() + 30
        while b"the log" not in said:
            assert select.select([ours], [], [], max(0.0, until - time.monotonic()))[0], said
            said += os.read(ours, 4096)
        if follow:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == (130 if follow else 0)
    os.close(ours)
    assert all(letter.isprintable() or letter in "\r\n" for letter in said.decode()), said
