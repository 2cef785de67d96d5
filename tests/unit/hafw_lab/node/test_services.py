# SPDX-License-Identifier: GPL-2.0-or-later
"""The services of a node, with real processes: whatever is asked for while something else is under way is
answered once, and what is left is what was asked for last."""

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hafw_lab.errors import LabError
from hafw_lab.node import services
from hafw_lab.node.services import Services
from hafw_lab.plan.values import Service
from hafw_lab.wire import Message

PATIENCE_S = 20
SLOW_CHILD = """
(trap 'while [ ! -e let-go ]; do sleep 0.01; done; touch gone; exit' TERM
until [ -s child ]; do sleep 0.01; done; touch ready; while :; do sleep 0.01; done) &
echo $! >child; exec sleep 1000
"""
"""Its child takes some time to end."""
BEYOND_EVERY_PID = 2**22 + 1
FOREVER = "exec sleep 1000"
STUBBORN = "trap 'touch asked' TERM; touch ready; while [ ! -e let-go ]; do sleep 0.01; done"
"""Ends some time after it was told to."""


class Init:
    """What the init of a node does for its services."""

    def __init__(self, *services: Service) -> None:
        self.answers: list[tuple[int, Message]] = []
        self.errors: list[tuple[int, str]] = []
        self._selector = selectors.DefaultSelector()
        self.services = Services(services, self._selector, self._answer, self._fail)

    def _answer(self, request: int, message: Message) -> None:
        self.answers.append((request, message))

    def _fail(self, request: int, error: str) -> None:
        self.errors.append((request, error))

    @property
    def answered(self) -> list[int]:
        return sorted(request for request, _ in self.answers)

    @property
    def refused(self) -> list[int]:
        return sorted(request for request, _ in self.errors)

    @property
    def pid(self) -> int | None:
        pid: int | None = self.services.describe()["one"]["pid"]
        return pid

    @property
    def exit_status(self) -> int | None:
        status: int | None = self.services.describe()["one"]["exit"]
        return status

    def turn(self) -> None:
        for key, _ in self._selector.select(0.005):
            key.data()
        if self.pid is not None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.services.on_end(ended, os.waitstatus_to_exitcode(status))
        self.services.tick()

    def wait(self, what: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < until, (self.answers, self.errors, self.services.describe())
            self.turn()

    def start(self, request: int) -> None:
        self.services.start(request, "one")

    def stop(self, request: int) -> None:
        self.services.stop(request, "one", signal.SIGTERM)

    def end(self) -> None:
        if self.pid is not None:
            self.services.signal("one", signal.SIGKILL, every=True)
            os.waitpid(self.pid, 0)
        while self._selector.get_map():  # a child of the killed one may hold the pipe for a moment longer
            ready = self._selector.select(PATIENCE_S)
            assert ready, "the output of a killed service does not end"
            for key, _ in ready:
                key.data()
        self._selector.close()


@pytest.fixture
def make_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Init]]:
    monkeypatch.chdir(tmp_path)  # where the services leave their files
    made: list[Init] = []

    def make(script: str = FOREVER, *, ready: str | None = None, **fields: float) -> Init:
        argv, log = ("/bin/sh", "-c", script), str(tmp_path / "log")
        made.append(Init(Service("one", argv, log, ready_file=ready, **fields)))  # type: ignore[arg-type]  # bool and float alike
        return made[-1]

    yield make
    for init in made:
        init.end()


def started(init: Init) -> Init:
    init.start(1)
    init.wait(lambda: init.answered == [1])
    return init


def test_everybody_who_starts_it_hears_that_it_is_up(make_init: Callable[..., Init]) -> None:
    init = make_init(f"until [ -e go ]; do sleep 0.01; done; touch ready; {FOREVER}", ready="ready")
    init.start(1)
    init.start(2)
    pid = init.pid
    init.turn()
    assert init.answered == []
    Path("go").touch()
    init.wait(lambda: init.answered == [1, 2])
    init.start(3)
    init.wait(lambda: init.answered == [1, 2, 3])
    assert init.pid == pid, "one that runs stays as it is"


def test_one_that_was_told_to_stop_before_it_was_up_stays_down(make_init: Callable[..., Init]) -> None:
    init = make_init(ready="never")
    init.start(1)
    init.stop(2)
    init.wait(lambda: init.answered == [2])
    assert (init.refused, init.errors[0][1]) == ([1], "one was told to stop before it was up")
    assert (init.pid, init.exit_status, init.services.busy) == (None, -signal.SIGTERM, False)


def test_everybody_who_stops_it_hears_that_it_has_ended(make_init: Callable[..., Init]) -> None:
    init = started(make_init(STUBBORN, ready="ready"))
    init.stop(2)
    init.wait(Path("asked").exists)
    init.stop(3)
    assert init.answered == [1]
    Path("let-go").touch()
    init.wait(lambda: init.answered == [1, 2, 3])
    assert (init.pid, init.exit_status) == (None, 0)


def test_a_start_waits_for_the_end_of_the_last_one(make_init: Callable[..., Init]) -> None:
    init = started(make_init(STUBBORN, ready="ready"))
    first = init.pid
    init.stop(2)
    init.start(3)
    assert (init.pid, init.answered) == (first, [1])
    Path("let-go").touch()
    init.wait(lambda: 2 in init.answered)
    init.wait(lambda: 3 in init.answered)
    assert init.refused == []


def test_a_stop_undoes_the_start_that_waits(make_init: Callable[..., Init]) -> None:
    init = started(make_init(STUBBORN, ready="ready"))
    init.stop(2)
    init.start(3)
    init.stop(4)
    Path("let-go").touch()
    init.wait(lambda: init.answered == [1, 2, 4])
    assert (init.refused, init.pid) == ([3], None)


def test_a_fault_while_it_starts_is_not_its_end(make_init: Callable[..., Init]) -> None:
    init = make_init(f"[ -e again ] && touch ready; touch again; {FOREVER}", ready="ready")
    init.start(1)
    first = init.pid
    init.wait(Path("again").exists)
    init.services.signal("one", signal.SIGKILL, every=False)
    init.wait(lambda: init.answered == [1])
    assert init.pid not in (None, first)


@pytest.mark.parametrize("restart", [True, False])
def test_only_what_restarts_comes_back_by_itself(make_init: Callable[..., Init], restart: bool) -> None:
    init = started(make_init(restart=restart))
    first = init.pid
    init.services.signal("one", signal.SIGKILL, every=False)
    init.wait(lambda: init.pid is None)
    assert init.exit_status == -signal.SIGKILL
    assert init.services.busy == restart
    if restart:
        init.wait(lambda: init.pid not in (None, first))


def test_one_that_is_stopped_before_it_restarts_stays_down(make_init: Callable[..., Init]) -> None:
    init = started(make_init(restart=True))
    init.services.signal("one", signal.SIGKILL, every=False)
    init.wait(lambda: init.pid is None)
    init.stop(2)
    assert init.answered == [1, 2]
    assert (init.pid, init.services.busy) == (None, False)


def test_one_that_ends_at_once_says_why(make_init: Callable[..., Init]) -> None:
    init = make_init("echo no room for me; exit 3", ready="never")
    init.start(1)
    init.wait(lambda: init.refused == [1])
    assert init.errors[0][1].startswith("one ended at once (exit status 3)")
    assert (init.pid, init.exit_status) == (None, 3)


def test_one_that_is_not_up_in_time_still_runs(make_init: Callable[..., Init]) -> None:
    init = make_init(ready="never", timeout_s=0.05)
    init.start(1)
    init.wait(lambda: init.refused == [1])
    assert "one was not ready within 0.05 s" in init.errors[0][1]
    assert init.pid is not None


def test_a_program_that_is_gone_is_an_answer(tmp_path: Path) -> None:
    script = tmp_path / "daemon"
    script.write_text("#!/bin/sh\nexec sleep 1000\n")
    script.chmod(0o755)
    init = Init(Service("one", (str(script),), str(tmp_path / "log")))
    started(init)
    script.unlink()
    init.stop(2)
    init.start(3)
    init.wait(lambda: init.refused == [3])
    assert init.errors == [(3, "one: No such file or directory")]
    with pytest.raises(FileNotFoundError):
        init.start(4)
    init.end()


def test_what_does_not_run_gets_no_signal(make_init: Callable[..., Init]) -> None:
    init = make_init()
    with pytest.raises(LabError, match="one is not running"):
        init.services.signal("one", signal.SIGHUP, every=False)
    with pytest.raises(LabError, match=r"there is no service 'two' here \(services: one\)"):
        init.services.start(1, "two")
    init.stop(2)
    assert init.answered == [2]


def test_what_has_ended_since_it_was_found_is_no_error(
    make_init: Callable[..., Init], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell that loops has another child each time."""
    init = started(make_init())
    monkeypatch.setattr(services, "find_session", lambda _: [BEYOND_EVERY_PID])
    init.services.signal("one", signal.SIGKILL, every=True)
    init.wait(lambda: init.pid is None)
    assert init.exit_status == -signal.SIGKILL


@pytest.mark.parametrize("stopped", [False, True])
def test_none_is_started_beside_what_is_left_of_the_last(
    make_init: Callable[..., Init], stopped: bool
) -> None:
    init = started(make_init(SLOW_CHILD, ready="ready", restart=True))
    child = Path("child").read_text()
    if stopped:
        Path("let-go").touch()
        os.kill(int(child), signal.SIGSTOP)
    init.services.signal("one", signal.SIGKILL, every=False)
    init.wait(lambda: init.exit_status is not None)
    with pytest.raises(LabError, match="one is not running"):
        init.services.signal("one", signal.SIGHUP, every=False)
    if not stopped:
        until = time.monotonic() + 3 * services._RESTART_AFTER_S
        init.wait(lambda: time.monotonic() > until)
        assert (init.pid, init.services.busy) == (None, True)
        Path("let-go").touch()
    init.wait(lambda: init.pid is not None)
    assert Path("gone").exists()
    init.wait(lambda: Path("child").read_text() not in ("", child))


def test_what_is_asked_of_one_that_has_not_quite_ended_is_done_then(make_init: Callable[..., Init]) -> None:
    init = started(make_init(SLOW_CHILD, ready="ready"))
    init.stop(2)
    init.wait(lambda: init.exit_status is not None)
    init.start(3)
    init.stop(4)
    assert (init.answered, init.refused) == ([1], [3])
    Path("let-go").touch()
    init.wait(lambda: init.answered == [1, 2, 4])
    assert (init.pid, init.services.busy) == (None, False)


def test_what_does_not_leave_is_killed(
    make_init: Callable[..., Init], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_LEAVE_S", 0.1)
    init = started(make_init(SLOW_CHILD, ready="ready"))
    child = Path("child").read_text()
    init.services.signal("one", signal.SIGKILL, every=False)
    init.wait(lambda: init.exit_status is not None)
    init.start(2)
    init.wait(lambda: init.answered == [1, 2])
    assert not Path("gone").exists()
    init.wait(lambda: Path("child").read_text() not in ("", child))
