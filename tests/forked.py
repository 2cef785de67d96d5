# SPDX-License-Identifier: GPL-2.0-or-later
"""A command of ours as a process of its own, but without the start of a Python: forked from the tests.

It has its own streams, environment and exit status, as if it had been started. What Python itself does at
its start and end, and that a command imports all that it needs, only a real start shows; the tests of each
command have some of those as well.
"""

import gc
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from subprocess import DEVNULL, CompletedProcess
from typing import BinaryIO, NoReturn

Main = Callable[[Sequence[str]], int]
LIMIT_S = 60.0


def run_forked(
    main: Main,
    arguments: Sequence[str | bytes | os.PathLike[str]],
    env: Mapping[str, str],
    stdin: int = DEVNULL,
) -> "CompletedProcess[bytes]":
    """Nothing is read from the standard input, or what comes through the descriptor `stdin`."""
    argv = [os.fsdecode(argument) for argument in arguments]
    with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
        child = os.fork()
        if child == 0:
            _run_and_end(main, argv, env, (stdin, out.fileno(), err.fileno()))
        status = _wait(child)
        return CompletedProcess(argv, status, _content(out), _content(err))


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _wait(child: int) -> int:
    """The exit status, or minus the number of the signal."""
    ended = os.pidfd_open(child)
    try:
        if not select.select([ended], [], [], LIMIT_S)[0]:
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(ended)


def _run_and_end(main: Main, argv: list[str], env: Mapping[str, str], streams: tuple[int, ...]) -> NoReturn:
    """As Python runs `sys.exit(main())`. Nothing of the test run continues here."""
    status = 1
    try:
        gc.freeze()  # a collection would write to all the memory that is shared with the tests
        _become_a_process(env, streams)
        try:
            status = main(argv)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else ended.code is not None
        except BaseException:  # noqa: BLE001 - Python prints it and ends
            traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(status)


def _become_a_process(env: Mapping[str, str], streams: tuple[int, ...]) -> None:
    os.environ.clear()
    os.environ.update(env)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate(streams):
        os.dup2(nothing if stream == DEVNULL else stream, number)
    logging.root.handlers.clear()  # pytest's
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape")
    sys.__stdout__ = sys.stdout  # type: ignore[misc] # as Python does at its start
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
