# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the tests: chosen by name, and each with its time."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_runtest_setup
from tests.parts import PARTS, PartTimes

FILES = ("tests/static/test_readme.py", "tests/unit/agent/model/test_pair.py")


def run_pytest(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'host-tools'}"}
    return subprocess.run(
        argv, cwd=root, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def times_in(said: str) -> list[tuple[str, int]]:
    found = re.findall(
        r"^(\w+) +(\d+) tests +\d+\.\d s$", said.partition("time of each part")[2], re.MULTILINE
    )
    return [(part, int(number)) for part, number in found]


def test_every_directory_of_tests_is_a_part(root: Path) -> None:
    assert {path.relative_to(root / "tests").parts[0] for path in root.glob("tests/*/**/test_*.py")} == set(
        PARTS
    )


def test_only_the_part_that_was_asked_for(root: Path) -> None:
    """Also of files that are named, and the time is said of what ran."""
    done = run_pytest(root, "--part", "static", *FILES)
    assert done.returncode == 0, done.stdout + done.stderr
    number = (root / FILES[0]).read_text().count("\ndef test_")
    assert times_in(done.stdout) == [("static", number)]


def test_the_time_of_a_part_is_that_on_the_wall() -> None:
    """Two processes have each worked for 100 s, at the same time."""
    times, lines = PartTimes(), list[str]()
    for name in ("tests/unit/test_x.py::a", "tests/unit/test_x.py::b"):
        times.pytest_runtest_logstart(name)
        report = pytest.TestReport(name, ("", 0, ""), {}, "passed", None, "call", (), 100.0)
        times.pytest_runtest_logreport(report)
    terminal = SimpleNamespace(section=lambda _: None, line=lines.append)
    times.pytest_terminal_summary(terminal)  # type: ignore[arg-type]  # what it uses of a reporter
    ((part, number, seconds),) = re.findall(r"^(\w+) +(\d+) tests +([\d.]+) s$", "\n".join(lines))
    assert (part, number) == ("unit", "2")
    assert float(seconds) < 100.0


def test_each_part_has_its_time_also_from_two_processes(root: Path) -> None:
    done = run_pytest(root, "-n", "2", "--part", "static", "--part", "unit", *FILES)
    assert [part for part, _ in times_in(done.stdout)] == ["static", "unit"], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("foo",), "run: unknown command `foo`"),
        ((), "run: a command is missing"),
        (("test", "--nope"), "ERROR: usage: run test [options] [file_or_dir] [file_or_dir] [...]"),
    ],
)
def test_wrong_arguments_of_run(root: Path, arguments: tuple[str, ...], first: str) -> None:
    if arguments and not (Path(os.environ.get("HAFW_CACHE", root / ".cache")) / "venv").exists():
        pytest.skip("the tools of the tests are not where ./run puts them")
    # after `./run check` on a new machine, it first installs what only the other parts need
    done = subprocess.run([root / "run", *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("run: installing ")]
    assert said[0] == first, done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("--part", "static", "--collect-only", "-k", "no_such")])
def test_the_check_says_what_it_leaves_out_only_of_its_own_choice(
    root: Path, arguments: tuple[str, ...]
) -> None:
    if not (Path(os.environ.get("HAFW_CACHE", root / ".cache")) / "venv").exists():
        pytest.skip("the tools of the tests are not where ./run puts them")
    argv = [str(root / "run"), "check", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.stdout
    assert "left out" not in done.stderr


def test_an_unknown_part_is_a_sentence(root: Path) -> None:
    done = run_pytest(root, "--part", "units")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    said = f"no part of the tests is called 'units'; the parts are {', '.join(PARTS)}"
    assert done.stderr.strip() == f"ERROR: {said}"


@pytest.mark.root(reason="the words for who is not")
def test_what_only_root_can_run_is_skipped_for_others(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="the words for who is not"):
        pytest_runtest_setup(request.node)


def test_the_check_and_the_help_name_every_part(root: Path) -> None:
    text = (root / "run").read_text()
    left_out = ", ".join(PARTS[2:-1]) + f" and {PARTS[-1]}"
    assert f"left out: the parts {left_out}" in text
    assert all(part in text[text.index("usage: ./run") :] for part in PARTS)


@pytest.mark.parametrize(
    ("arguments", "needs_machines"),
    [
        (("--part", "static"), False),
        (("-q", "--part=static", "--part", "unit", "-k", "gate"), False),
        (("-q", "tests/static/test_tools.py::test_ruff"), False),
        (("-q", "--part", "static", "--deselect", "tests/vm"), False),
        (("--part", "static", "--part", "vm"), True),
        (("tests/unit/agent", "tests/vm"), True),
        (("-k", "gate"), True),
        ((), True),
    ],
)
def test_a_part_needs_its_own_packages_only(
    root: Path, tmp_path: Path, arguments: tuple[str, ...], needs_machines: bool
) -> None:
    """Of a user who is not root, on a machine that has none."""
    for name, code in (("dpkg-query", "exit 1"), ("id", "echo 1000")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = [str(root / "run"), "test", *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    missing = done.stderr.partition("these packages are missing: ")[2].splitlines()[0].split()
    assert "shellcheck" in missing
    assert ("qemu-system-x86" in missing) is needs_machines
