# SPDX-License-Identifier: GPL-2.0-or-later
"""What every static test looks at: our own files, not what tools left beside them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import ROOT

LEFT_OUT = {".git", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__"}
"""Where git does not say which files are ours: in a tree without it, as a package is built from."""


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files(root: Path) -> tuple[Path, ...]:
    return files_below(root)


def files_below(root: Path) -> tuple[Path, ...]:
    """Every file of the tree without links, and without what git ignores: a virtual environment, a build."""
    listed = ask_git(root) if (root / ".git").exists() else None
    found = walk(root) if listed is None else listed
    return tuple(sorted(path for path in found if path.is_file() and not path.is_symlink()))


def ask_git(root: Path) -> list[Path] | None:
    """None if git is missing, or does not read what belongs to another user."""
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return None
    return [root / name for name in done.stdout.split("\0") if name] if done.returncode == 0 else None


def walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name not in LEFT_OUT and not (path / "pyvenv.cfg").exists():
                yield from walk(path)
        else:
            yield path


@pytest.fixture(scope="session")
def python_files(files: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(path for path in files if path.suffix == ".py" or "python" in first_line(path))


@pytest.fixture(scope="session")
def shell_files(files: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(path for path in files if path.suffix == ".sh" or is_shell(first_line(path)))


@pytest.fixture(scope="session")
def pages(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """What people read: README.md, docs/ and the other pages in Markdown."""
    return tuple(path for path in files if path.suffix == ".md")


def first_line(path: Path) -> str:
    """The `#!` line, or nothing."""
    with path.open("rb") as file:
        start = file.readline(256)
    return start.decode(errors="replace").strip() if start.startswith(b"#!") else ""


def is_shell(interpreter: str) -> bool:
    words = interpreter.replace("/", " ").split()
    return any(word in ("sh", "bash", "dash") for word in words)
