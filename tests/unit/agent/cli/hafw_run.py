# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `hafw`, run as a process."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.__main__ import main
from tests.checkout import ROOT
from tests.forked import run_forked

PAIR = ROOT / "examples" / "pair.yaml"
LIMIT_S = 30
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


def hafw(
    *arguments: str | bytes | Path,
    stdout: int | None = None,
    prefix: str = "",
    env: dict[str, str] | None = None,
    start: bool = False,
) -> "subprocess.CompletedProcess[bytes]":
    """With `start`, and wherever more than arguments is given, with a Python of its own."""
    if start or prefix or env or stdout is not None:
        done = start_hafw(arguments, stdout, prefix, env or {})
    else:
        done = run_forked(main, arguments, {**ENV, "SUDO_UID": os.environ["SUDO_UID"]})
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"Exception ignored" not in done.stderr, done.stderr.decode()
    return done


def start_hafw(
    arguments: Sequence[str | bytes | Path], stdout: int | None, prefix: str, env: dict[str, str]
) -> "subprocess.CompletedProcess[bytes]":
    argv: list[str | bytes | Path] = ["/usr/bin/python3", "-P", "-m", "agent", *arguments]
    if prefix:
        argv = ["unshare", "-mn", "--propagation", "private", "/bin/sh", "-c", f'{prefix} "$@"', "sh", *argv]
    return subprocess.run(
        argv,
        env={**ENV, "SUDO_UID": os.environ["SUDO_UID"], **env},
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT_S,
        check=False,
    )
