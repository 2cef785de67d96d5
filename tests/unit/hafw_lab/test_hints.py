# SPDX-License-Identifier: GPL-2.0-or-later
"""Hints can be pasted: the command as it was called, and the lab that was meant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hafw_lab.hints import adapt, adapt_columns
from tests.checkout import ROOT


@pytest.mark.parametrize(
    ("text", "called", "name", "said"),
    [
        ("try: hafw-lab status", None, None, "try: hafw-lab status"),
        ("try: hafw-lab status, hafw-lab down", "./run lab", None, "try: ./run lab status, ./run lab down"),
        ("hafw-lab heal fw-1", None, "two", "hafw-lab heal --name two fw-1"),
        ("hafw-lab heal fw-1", "./run lab", "two", "./run lab heal --name two fw-1"),
        ("hafw-lab down --name one", "./run lab", "two", "./run lab down --name one"),
        ("hafw-lab image build --fresh", "./run lab", "two", "./run lab image build --fresh"),
        ("hafw-lab snapshot load x", None, "two", "hafw-lab snapshot load --name two x"),
        ("hafw-lab snapshot rm x", None, "two", "hafw-lab snapshot rm x"),
        ("hafw-lab: fw-1 is off", "./run lab", "two", "hafw-lab: fw-1 is off"),
        ("see /run/hafw-lab and hafw-lab-ssh", "./run lab", "two", "see /run/hafw-lab and hafw-lab-ssh"),
    ],
)
def test_commands_as_they_have_to_be_typed(
    text: str, called: str | None, name: str | None, said: str
) -> None:
    assert adapt(text, called, name) == said


EXAMPLES = """examples:
  hafw-lab up              starts it, until `hafw-lab down`
  echo x | hafw-lab down   ends it; this is more than fits
                           into one line
(hafw-lab doctor says)"""


@pytest.mark.parametrize("called", ["x", "./run lab", "/a/long/way/to/run lab"])
def test_the_columns_of_examples_stay_columns(called: str) -> None:
    said = adapt_columns(EXAMPLES, called).splitlines()
    columns = {line.index(word) for line, word in zip(said[1:4], ("starts", "ends", "into"), strict=True)}
    assert len(columns) == 1
    assert said[1] == f"  {called} up              starts it, until `{called} down`"
    assert said[4] == f"({called} doctor says)"
    assert adapt_columns(EXAMPLES, None) == EXAMPLES


def hafw_lab(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "hafw_lab", *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_hint_of_the_program_itself(tmp_path: Path) -> None:
    called = {"HAFW_LAB_COMMAND": "./run lab", "XDG_RUNTIME_DIR": str(tmp_path)}
    said = hafw_lab("heal", "--name", "none-such", "fw-1", **called).stderr
    assert said.strip().endswith("start one with: ./run lab up --name none-such")
    for words in (
        ("snapshot", "save", "x", "--name", "none-such"),
        ("snapshot", "--name", "none-such", "save", "x"),
    ):
        assert "no lab 'none-such' is up" in hafw_lab(*words, HAFW_CACHE=str(tmp_path), **called).stderr


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = hafw_lab("snapshot", "save", "x", HAFW_CACHE=str(tmp_path / "file" / "below"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    done = hafw_lab("image", "prune", HAFW_CACHE=str(tmp_path / "file" / "below"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
