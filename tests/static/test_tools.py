# SPDX-License-Identifier: GPL-2.0-or-later
"""The linters and the type checker, as tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TIMEOUT_S = 300
CACHE = os.environ.get("HAFW_CACHE", ".cache")
"""Not the checkout's own where that belongs to another user; ./run decides."""

NO_MISTAKES = ("nd", "iif", "cancelled", "cancelling")
"""A macro of man pages, a word of nft's, and two as asyncio spells them."""

# pytest, argparse or a foreign library looks for these names; we never read them
READ_BY_OTHERS = (
    "pytestmark",
    "pytest_*",
    "__path__",
    "__call__",
    "usage",
    "INIT",
    "mono_ns",
    "nothing_leaks",
    "child_watcher",
    "_auth_readline",
    "pipe_data_received",
    "process_exited",
    "connection_lost",
    "exc",
    "handle_*",
    "formatter_class",
    "check_hostname",
    "minimum_version",
    "verify_mode",
    "verify_flags",
    "num_tickets",
)


def check(root: Path, *argv: str) -> None:
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{' '.join(argv[:6])} ...\n{done.stdout}{done.stderr}"


def sources(root: Path) -> tuple[str, ...]:
    return tuple(name for name in ("agent", "host-tools", "tests") if (root / name).is_dir())


def packaging(root: Path) -> tuple[str, ...]:
    return tuple(str(path.relative_to(root)) for path in (root / "packaging").glob("*.py"))


def test_ruff(root: Path) -> None:
    check(root, sys.executable, "-m", "ruff", "check", "--cache-dir", f"{CACHE}/ruff", ".")


def test_ruff_format(root: Path) -> None:
    check(root, sys.executable, "-m", "ruff", "format", "--check", "--cache-dir", f"{CACHE}/ruff", ".")


def test_mypy(root: Path) -> None:
    check(
        root,
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        f"{CACHE}/mypy",
        *sources(root),
        *packaging(root),
    )


def test_vulture(root: Path) -> None:
    names = ",".join(READ_BY_OTHERS)
    check(root, sys.executable, "-m", "vulture", "--ignore-names", names, *sources(root))


def require_tool(name: str) -> str:
    tool = shutil.which(name)
    if tool is None:
        pytest.fail(f"{name} is missing; ./run test installs it")
    return tool


def test_codespell(root: Path, files: tuple[Path, ...]) -> None:
    # not `python -m codespell_lib`, whose exit status is always 0
    # American, as nftables, keepalived and the kernel; Debian 12's codespell reads no pyproject.toml
    words = ("--builtin", "clear,rare,en-GB_to_en-US", "-L", ",".join(NO_MISTAKES))
    check(root, require_tool("codespell"), *words, *(str(path.relative_to(root)) for path in files))


def test_shellcheck(root: Path, shell_files: tuple[Path, ...]) -> None:
    assert root / "run" in shell_files, "the search for shell files does not work"
    check(root, require_tool("shellcheck"), *(str(path.relative_to(root)) for path in shell_files))
