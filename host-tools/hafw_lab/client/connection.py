# SPDX-License-Identifier: GPL-2.0-or-later
"""The caller's side of a lab: start its supervisor or find a running one, ask it, wait for its answers."""

import contextlib
import itertools
import json
import os
import queue
import socket
import subprocess
import sys
import threading

from hafw_lab import wire
from hafw_lab.errors import LabError, NodeDownError
from hafw_lab.plan.values import LabPlan
from hafw_lab.progress import Progress
from hafw_lab.source_paths import SEARCH_PATH

_ANSWER_TIMEOUT_S = 60.0
_BUILD_TIMEOUT_S = 90.0
_MACHINES_TIMEOUT_S = 1800.0
"""The supervisor itself notices much earlier when a machine stalls, and says where."""
_END_TIMEOUT_S = 20.0
_PYTHON = "/usr/bin/python3"


class Client:
    """Requests over one channel, from any number of threads. A request may take long without holding up
    another."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[tuple[wire.Message, list[int]] | None]] = {}
        self._ended = False
        self.ended = threading.Event()
        self._reader = threading.Thread(target=self._read, name="hafw-lab answers", daemon=True)
        self._reader.start()

    def ask(self, op: str, *, timeout_s: float = _ANSWER_TIMEOUT_S, **fields: object) -> wire.Message:
        """Raises LabError: the answer is an error, or there is none."""
        message, files = self._ask(op, timeout_s, fields)
        for fd in files:
            os.close(fd)
        return message

    def ask_file(self, op: str, **fields: object) -> int:
        """The descriptor that comes with the answer; the caller closes it."""
        _, files = self._ask(op, _ANSWER_TIMEOUT_S, fields)
        if len(files) != 1:
            raise LabError("the lab answered without the requested file")
        return files[0]

    def close(self) -> None:
        # shutdown, since the reader thread sits in recvmsg and close alone would not wake it
        with contextlib.suppress(OSError):  # the other side was quicker
            self._channel.shutdown(socket.SHUT_RDWR)
        self._reader.join()

    def _ask(self, op: str, timeout_s: float, fields: dict[str, object]) -> tuple[wire.Message, list[int]]:
        answers: queue.SimpleQueue[tuple[wire.Message, list[int]] | None] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise LabError("the lab has ended", "start it again with: hafw-lab up")
            number = next(self._numbers)
            self._waiting[number] = answers
            try:
                wire.send(self._channel, {"id": number, "op": op, **fields})
            except LabError:
                del self._waiting[number]
                raise
            except OSError as error:
                del self._waiting[number]
                raise LabError("the lab has ended", "start it again with: hafw-lab up") from error
        try:
            received = answers.get(timeout=timeout_s)
        except queue.Empty:
            raise LabError(f"the lab did not answer {op!r} within {timeout_s:g} s") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if received is None:
            raise LabError(f"the lab ended before it had answered {op!r}")
        message, files = received
        if "error" in message:
            raise _error_from(message)
        return message["ok"], files

    def _read(self) -> None:
        while True:
            try:
                received = wire.receive(self._channel)
            except (OSError, LabError):
                received = None
            if received is None:
                break
            message, files = received
            with self._lock:
                answers = self._waiting.get(message.get("id", 0))
            if answers is not None:
                answers.put((message, files))
            else:
                for fd in files:
                    os.close(fd)
        with self._lock:
            self._ended = True
            for answers in self._waiting.values():
                answers.put(None)
        self._channel.close()
        self.ended.set()


def _error_from(message: wire.Message) -> LabError:
    if message.get("kind") == NodeDownError.__name__:
        return NodeDownError(str(message["error"]).removesuffix(" is switched off"))
    return LabError(message["error"], message.get("hint"))


class SupervisorProcess:
    """A supervisor that this process has started. It ends when this process does, unless it was given a
    listener."""

    def __init__(self, plan: LabPlan, listener: socket.socket | None = None) -> None:
        self._control, theirs = wire.make_pair()
        machines = any(node.machine for node in plan.nodes)
        self._build_timeout_s = _MACHINES_TIMEOUT_S if machines else _BUILD_TIMEOUT_S
        given = [theirs.fileno()] + ([listener.fileno()] if listener else [])
        self._errors = os.memfd_create("hafw-lab-errors")
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(SEARCH_PATH),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        python = _PYTHON if os.path.exists(_PYTHON) else sys.executable
        with theirs:
            self._process = subprocess.Popen(
                [python, "-P", "-S", "-m", "hafw_lab.supervisor.main", *map(str, given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=given,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the caller, who then ends the lab in order
            )
        assert self._process.stdin is not None
        # wait_ready() tells why it died
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(plan.to_json()).encode())

    def wait_ready(self, progress: Progress) -> Client:
        """Until the whole lab is up. Raises LabError, and then nothing of it is left."""
        self._control.settimeout(self._build_timeout_s)
        while True:
            try:
                received = wire.receive(self._control)
            except TimeoutError as error:
                self.end()
                raise LabError(f"the lab was not up within {self._build_timeout_s:g} s") from error
            if received is None:
                self.end()
                raise LabError(f"the lab's supervisor died: {self._last_words()}")
            message, _ = received
            if "progress" in message:
                progress(message["progress"])
            elif "failed" in message:
                self.end()
                raise LabError(message["failed"], message.get("hint"))
            elif message.get("ready"):
                self._control.settimeout(None)
                return Client(self._control)

    def end(self) -> None:
        """The lab is gone when this returns."""
        with contextlib.suppress(OSError):  # it is closed already
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _last_words(self) -> str:
        with open(os.dup(self._errors), encoding="utf-8", errors="replace") as errors:
            errors.seek(0)
            lines = errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"
