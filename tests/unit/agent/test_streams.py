# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard streams that are closed or full, or whose reader has gone. Each time with a Python of its own,
which opens them at its start and writes to them at its end."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.checkout import ROOT
from tests.unit.agent.cli.hafw_run import LIMIT_S, PAIR, hafw


def test_a_reader_that_has_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    done = hafw("render", "keepalived", PAIR, "--node", "fw-1", stdout=write)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == b""


VERBS = ["check", "render", "plan", "status", "history", "setup", "rules", "agent", "settle"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_reader_of_the_help_who_has_gone(verb: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = hafw(verb, "--help", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


STREAMS = [
    "<&-",
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    ">/dev/full",
    "2>/dev/full",
    "2>&1 >/dev/full",
    "2>&1 | true",
]


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (f"check {PAIR}", (0, 1)),
        ("check /nonexistent", (2,)),
        ("check --nonsense", (2,)),
        (f"setup --root / --file {PAIR} --node fw-1", (1,)),
        ("--help", (0, 1)),
    ],
)
def test_streams_that_are_closed_or_full(
    tmp_path: Path, streams: str, arguments: str, status: tuple[int, ...]
) -> None:
    script = f"{{ /usr/bin/python3 -P -m agent {arguments} 2>{tmp_path}/said; }}"
    if "2>" in streams:  # what would be said there is nowhere, so look at the exit status
        script = f"/usr/bin/python3 -P -m agent {arguments}"
    command = f"set -o pipefail; {script} {streams}"
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(ROOT),
            "SUDO_UID": os.environ["SUDO_UID"],
        },
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    said = done.stdout + done.stderr
    if (tmp_path / "said").exists():
        said += (tmp_path / "said").read_bytes()
    assert b"Traceback" not in said, said.decode()
    assert b"Exception ignored" not in said, said.decode()
    assert done.returncode in status, said.decode()
