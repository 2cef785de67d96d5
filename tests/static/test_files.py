# SPDX-License-Identifier: GPL-2.0-or-later
"""The static tests look at our own files: not at what people and tools leave beside them."""

import shutil
import subprocess
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
