# SPDX-License-Identifier: GPL-2.0-or-later
"""The services of a node, as its init has them. Each is in one state at a time, which holds the requests
that wait for the next one:

           start             it is up
    Down ----------> Starting ------> Running
     ^ ^                |                |
     | |                +---> Ending <---+  stop, or a signal that ends it
     | |                |       |        |
     | +--- Leaving <---+-------+--------+  its main process has ended
     |         |
     |         v                            back to Starting, if that is requested meanwhile
    AboutToRestart                          what ended by itself, if its plan says so; then Running

It is Leaving until none of its processes is left, as a unit of systemd is: the VRRP process of a keepalived
whose main process was killed would keep the next one's name on the bus from it, and remove its pid file.

Standard library only.
"""

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hafw_lab.errors import LabError
from hafw_lab.node.daemons import LogPipe, begin_daemon, describe_exit, find_session, is_up, last_words
from hafw_lab.plan.values import Service
from hafw_lab.wire import Message

_RESTART_AFTER_S = 0.1
_LEAVE_S = 10.0
_ENDS = (signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Down:
    exit_status: int | None = None
    """Of its last run, as waitstatus_to_exitcode gives it: negative for a signal. None: it has not run."""


@dataclass(frozen=True, slots=True)
class AboutToRestart:
    exit_status: int
    at: float


@dataclass(frozen=True, slots=True)
class Starting:
    """It has a process that is not up yet, or has not been asked."""

    pid: int
    starts: tuple[int, ...]
    """The requests that wait for it to be up."""
    until: float


@dataclass(frozen=True, slots=True)
class Running:
    pid: int


@dataclass(frozen=True, slots=True)
class Ending:
    """It was sent a signal that ends it, and has not ended yet: keepalived takes two seconds."""

    pid: int
    starts: tuple[int, ...] = ()
    """The requests for which it begins again when it has ended."""
    stops: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Leaving:
    """Its main process `pid` has ended, others of its session have not, and were told to."""

    pid: int
    exit_status: int
    until: float
    """Then they are killed."""
    starts: tuple[int, ...] = ()
    stops: tuple[int, ...] = ()


State = Down | AboutToRestart | Starting | Running | Ending | Leaving


@dataclass(slots=True)
class _Supervised:
    service: Service
    state: State = Down()


class Services:
    """`answer` and `fail` are given the number of a request and what to say to it, now or later."""

    def __init__(
        self,
        services: Iterable[Service],
        selector: selectors.BaseSelector,
        answer: Callable[[int, Message], None],
        fail: Callable[[int, str], None],
    ) -> None:
        self._all = {service.name: _Supervised(service) for service in services}
        self._selector = selector
        self._answer, self._fail = answer, fail

    @property
    def busy(self) -> bool:
        """Whether tick() has something to wait for."""
        return any(isinstance(one.state, Starting | AboutToRestart | Leaving) for one in self._all.values())

    def describe(self) -> Mapping[str, Message]:
        return {name: _describe_state(one.state) for name, one in self._all.items()}

    def _find(self, name: str) -> _Supervised:
        """Raises LabError."""
        if name not in self._all:
            known = ", ".join(self._all) or "none"
            raise LabError(f"there is no service {name!r} here (services: {known})")
        return self._all[name]

    # -- requests --

    def start(self, request: int, name: str) -> None:
        """Answered when it is up. Raises LabError, OSError."""
        one = self._find(name)
        match one.state:
            case Down() | AboutToRestart():
                self._spawn(one, (request,))
            case Running(pid):
                one.state = _starting(one.service, pid, (request,))
            case Starting(pid, starts):
                one.state = _starting(one.service, pid, (*starts, request))
            case Ending(pid, starts, stops):
                one.state = Ending(pid, (*starts, request), stops)
            case Leaving(starts=starts):
                one.state = replace(one.state, starts=(*starts, request))

    def stop(self, request: int, name: str, number: int) -> None:
        """Answered when its process is gone; requests that wait for it to be up are refused. LabError."""
        one = self._find(name)
        match one.state:
            case Down():
                self._answer(request, _now())
            case AboutToRestart(exit_status):
                one.state = Down(exit_status)
                self._answer(request, _now())
            case Running(pid):
                one.state = Ending(pid, stops=(request,))
                os.kill(pid, number)
            case Starting(pid, starts):
                self._stopped_before(one, starts)
                one.state = Ending(pid, stops=(request,))
                os.kill(pid, number)
            case Ending(pid, starts, stops):
                self._stopped_before(one, starts)
                one.state = Ending(pid, stops=(*stops, request))
                os.kill(pid, number)
            case Leaving(starts=starts, stops=stops):
                self._stopped_before(one, starts)
                one.state = replace(one.state, starts=(), stops=(*stops, request))

    def _stopped_before(self, one: _Supervised, starts: Sequence[int]) -> None:
        for request in starts:
            self._fail(request, f"{one.service.name} was told to stop before it was up")

    def signal(self, name: str, number: int, *, every: bool) -> int:
        """To its main process, or to `every` one. Returns when, CLOCK_MONOTONIC in ns. Raises LabError."""
        one = self._find(name)
        match one.state:
            case Down() | AboutToRestart() | Leaving():
                raise LabError(f"{one.service.name} is not running")
            case Running(pid) if number in _ENDS:
                one.state = Ending(pid)
            case Starting(pid, starts) if number in _ENDS:
                one.state = Ending(pid, starts)
            case Running(pid) | Starting(pid) | Ending(pid):
                pass
        pids = [pid, *find_session(pid)] if every else [pid]
        moment_ns = time.monotonic_ns()
        if len(pids) > 1 and number == signal.SIGKILL:
            _kill_all(pids, signal.SIGSTOP)  # so that none of them acts on the death of another
        _kill_all(pids, number)
        return moment_ns

    # -- what happens --

    def on_end(self, pid: int, exit_status: int) -> None:
        """A process has ended; whose it was is found here."""
        for one in self._all.values():
            match one.state:
                case Running(own) if own == pid:
                    self._leave(one, pid, exit_status)
                case Starting(own, starts) if own == pid:
                    self._leave(one, pid, exit_status)
                    why = f"ended at once ({describe_exit(exit_status)}){last_words(one.service)}"
                    for request in starts:
                        self._fail(request, f"{one.service.name} {why}")
                case Ending(own, starts, stops) if own == pid:
                    self._leave(one, pid, exit_status, starts, stops)

    def _leave(
        self,
        one: _Supervised,
        pid: int,
        exit_status: int,
        starts: tuple[int, ...] = (),
        stops: tuple[int, ...] = (),
    ) -> None:
        """Its main process has ended: so do the others, also those that are stopped by a signal."""
        left = find_session(pid)
        for number in (signal.SIGTERM, signal.SIGCONT):
            _kill_all(left, number)
        leaving = Leaving(pid, exit_status, time.monotonic() + _LEAVE_S, starts, stops)
        one.state = leaving
        if not left:
            self._left(one, leaving)

    def _left(self, one: _Supervised, last: Leaving) -> None:
        if last.starts:
            one.state = Down(last.exit_status)
            self._spawn_or_say(one, last.starts)
        elif one.service.restart and not last.stops:
            one.state = AboutToRestart(last.exit_status, time.monotonic() + _RESTART_AFTER_S)
        else:
            one.state = Down(last.exit_status)
        for request in last.stops:
            self._answer(request, _now())

    def tick(self) -> None:
        """What is due: a socket that begins to accept gives no notice."""
        now = time.monotonic()
        for one in self._all.values():
            match one.state:
                case AboutToRestart(exit_status, at) if now >= at:
                    one.state = Down(exit_status)
                    self._spawn_or_say(one, ())
                case Leaving(pid, until=until) as leaving:
                    left = find_session(pid)
                    if not left:
                        self._left(one, leaving)
                    elif now > until:
                        _kill_all(left, signal.SIGKILL)
                case Starting(pid, starts) if is_up(one.service):
                    one.state = Running(pid)
                    for request in starts:
                        self._answer(request, {"pid": pid})
                case Starting(pid, starts, until) if now > until:
                    one.state = Running(pid)
                    text = f"{one.service.name} was not ready within {one.service.timeout_s:g} s"
                    for request in starts:
                        self._fail(request, text + last_words(one.service))

    # -- processes --

    def _spawn_or_say(self, one: _Supervised, starts: tuple[int, ...]) -> None:
        """For a moment at which there is no request that could be refused."""
        try:
            self._spawn(one, starts)
        except OSError as error:
            for request in starts:
                self._fail(request, f"{one.service.name}: {error.strerror}")

    def _spawn(self, one: _Supervised, starts: tuple[int, ...]) -> None:
        """Raises OSError, and then it is as it was."""
        service = one.service
        for path in service.stale:
            Path(path).unlink(missing_ok=True)
        source, sink = os.pipe()
        target = os.open(service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        pipe = LogPipe(source, target)
        try:
            pid = begin_daemon(service, sink)
        except OSError:
            pipe.close()
            raise
        finally:
            os.close(sink)
        one.state = _starting(service, pid, starts) if starts else Running(pid)
        os.set_blocking(source, False)
        self._selector.register(source, selectors.EVENT_READ, self._pumping(pipe))

    def _pumping(self, pipe: LogPipe) -> Callable[[], None]:
        def take() -> None:
            if not pipe.pump():
                self._selector.unregister(pipe.source)
                pipe.close()

        return take


def _starting(service: Service, pid: int, starts: tuple[int, ...]) -> Starting:
    return Starting(pid, starts, time.monotonic() + service.timeout_s)


def _now() -> Message:
    return {"at_ns": time.monotonic_ns()}


def _describe_state(state: State) -> Message:
    match state:
        case Down(exit_status) | AboutToRestart(exit_status) | Leaving(exit_status=exit_status):
            return {"pid": None, "exit": exit_status}
        case Starting(pid) | Running(pid) | Ending(pid):
            return {"pid": pid, "exit": None}


def _kill_all(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended since it was found
            os.kill(pid, number)
