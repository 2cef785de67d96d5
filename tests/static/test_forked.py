# SPDX-License-Identifier: GPL-2.0-or-later
"""A forked command ends and speaks as one that was started."""

import os
import signal
import sys
from collections.abc import Sequence

import pytest

from tests.forked import Main, run_forked


def leave(code: object) -> int:
    raise SystemExit(code)


def fail() -> int:
    raise RuntimeError("a bug")


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize(
    ("main", "status"),
    [
        (lambda _: 0, 0),
        (lambda _: 3, 3),
        (lambda _: leave(2), 2),
        (lambda _: leave(None), 0),
        (lambda _: fail(), 1),
        (lambda _: die(), -signal.SIGKILL),
    ],
)
def test_its_exit_status(main: Main, status: int) -> None:
    assert run_forked(main, (), {}).returncode == status


def test_a_bug_is_a_traceback() -> None:
    said = run_forked(lambda _: fail(), (), {}).stderr
    assert said.startswith(b"Traceback")
    assert said.endswith(b"RuntimeError: a bug\n")


def test_its_arguments_streams_and_environment_are_its_own() -> None:
    def main(argv: Sequence[str]) -> int:
        print(argv, os.environ, sys.stdin.read())
        print("said", file=sys.stderr)
        return 0

    read, write = os.pipe()
    os.write(write, b"asked")
    os.close(write)
    done = run_forked(main, ("a", b"\xff"), {"LC_ALL": "C.UTF-8"}, read)
    os.close(read)
    assert done.stdout == b"['a', '\\udcff'] environ({'LC_ALL': 'C.UTF-8'}) asked\n"
    assert done.stderr == b"said\n"
    assert "PATH" in os.environ
    assert run_forked(main, (), {}).stdout == b"[] environ({}) \n"
