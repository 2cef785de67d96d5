# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ends of the measured traffic as processes in their nodes."""

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from hafw_lab.errors import LabError
from hafw_lab.traffic import endpoint

ANSWER_TIMEOUT_S = 60.0
"""A program in a machine without KVM takes seconds to begin."""
_END_TIMEOUT_S = 10.0
_COMPOSED = """\
import sys, types
shared = sys.modules[{name!r}] = types.ModuleType({name!r})
exec({shared!r}, shared.__dict__)
{end}"""


class TrafficNode(Protocol):
    """What is needed of a node of the lab."""

    @property
    def name(self) -> str: ...

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes]: ...


def compose_source(end: ModuleType) -> str:
    """One source of the module `end` and what it imports of ours: the node need not see the checkout."""
    return _COMPOSED.format(name=endpoint.__name__, shared=_read(endpoint), end=_read(end))


def _read(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text(encoding="utf-8")


class Program:
    """One end: a process in a node that answers one JSON line for each JSON line."""

    def __init__(self, node: TrafficNode, end: ModuleType, *arguments: str) -> None:
        pipe = subprocess.PIPE
        command = ["/usr/bin/python3", "-I", "-c", compose_source(end), *arguments]
        what = "traffic " + end.__name__.rpartition(".")[2]
        self._what = f"the {what} in node {node.name}"
        self._process = node.popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._rest = b""
        self._read_line(ANSWER_TIMEOUT_S)

    def ask(self, cmd: str, wait_s: float = ANSWER_TIMEOUT_S, **arguments: object) -> dict[str, object]:
        """Raises LabError when the program is gone or silent, or when it refuses."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"cmd": cmd, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._gone() from error
        answer = json.loads(self._read_line(wait_s))
        if "error" in answer:
            raise LabError(f"{self._what} could not {cmd}: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """End of input ends the program; it is killed if it does not listen."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=_END_TIMEOUT_S)
            return
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=_END_TIMEOUT_S)

    def _read_line(self, timeout_s: float) -> bytes:
        assert self._process.stdout
        deadline = time.monotonic() + timeout_s
        stream = self._process.stdout
        while b"\n" not in self._rest:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise LabError(f"{self._what} did not answer for {timeout_s:g} s")
            data = os.read(stream.fileno(), 1 << 20)
            if not data:
                raise self._gone()
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _gone(self) -> LabError:
        text = b""
        with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
            text = self._process.communicate(timeout=1)[1]
        last = text.decode(errors="replace").strip().splitlines()[-1:]
        return LabError(f"{self._what} has ended: {last[0] if last else 'it left no message'}")
