# SPDX-License-Identifier: GPL-2.0-or-later
"""What every static test looks at: our own files, not what tools left beside them."""

from pathlib import Path

import pytest

from tests.checkout import ROOT

LEFT_OUT = {".git", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__"}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files(root: Path) -> tuple[Path, ...]:
    """Every file of the tree; links count as what they point to."""
    found: list[Path] = []
    waiting = [root]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.name in LEFT_OUT or path.is_symlink():
                continue
            if path.is_dir():
                waiting.append(path)
            elif path.is_file():
                found.append(path)
    return tuple(sorted(found))


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
