# SPDX-License-Identifier: GPL-2.0-or-later
"""The static tests look at our own files: not at what people and tools leave beside them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.static.conftest import files_below

IGNORED = (".venv/lib/python3/site-packages/theirs.py", "build/lib/agent/old.py", "agent/__pycache__/x.pyc")


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    shutil.copy(root / ".gitignore", tmp_path)
    for name in ("agent/ours.py", *IGNORED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    (tmp_path / "agent" / "link.py").symlink_to("ours.py")
    return tmp_path


def names_below(tree: Path) -> list[str]:
    return [str(path.relative_to(tree)) for path in files_below(tree) if ".git" not in path.parts]


def test_a_virtual_environment_and_a_build_are_not_ours(tree: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tree)], check=True, timeout=60)
    assert names_below(tree) == [".gitignore", "agent/ours.py"], "also what is new"


def test_without_git_a_virtual_environment_is_not_ours_either(tree: Path) -> None:
    shutil.rmtree(tree / "build")  # only git knows
    assert names_below(tree) == [".gitignore", "agent/ours.py"]


def test_a_hook_of_git_does_no_harm_to_its_repository(root: Path, tmp_path: Path) -> None:
    """In a linked worktree git names the repository to its hooks."""
    committing = tmp_path / "committing"
    subprocess.run(["git", "init", "--quiet", str(committing)], check=True, timeout=60)
    before = (committing / ".git" / "config").read_text(encoding="utf-8")
    test = f"{Path(__file__).relative_to(root)}::test_a_virtual_environment_and_a_build_are_not_ours"
    argv = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-q", test]
    environment = os.environ | {"GIT_DIR": str(committing / ".git")}
    done = subprocess.run(
        argv, cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    assert (committing / ".git" / "config").read_text(encoding="utf-8") == before
