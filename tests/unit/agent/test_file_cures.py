# SPDX-License-Identifier: GPL-2.0-or-later
"""What is advised where a file cannot be used: real errors of the kernel, said by those who use files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.adapters.lock import hold_lock
from agent.errors import HafwError
from agent.rollout.generations import Generations
from agent.setup.changes import read_file

Use = Callable[[Path], object]


def lock(path: Path) -> None:
    with hold_lock(path, 0.0):
        pass


def keep(path: Path) -> None:
    Generations(path).add((("hafw.yaml", "version: 1\n"),), "somebody", "apply", "0123")


def below_a_file(path: Path) -> Path:
    path.touch()
    return path / "x"


def in_a_circle(path: Path) -> Path:
    path.symlink_to(path.name)
    return path / "x"


@pytest.mark.parametrize("use", [lock, keep, read_file])
@pytest.mark.parametrize(
    ("spoil", "cure"),
    [
        (below_a_file, "a part of that path is no directory; move it away"),
        (in_a_circle, "its links go in a circle; remove one of them"),
    ],
)
def test_the_cure_is_that_of_the_error(
    tmp_path: Path, use: Use, spoil: Callable[[Path], Path], cure: str
) -> None:
    with pytest.raises(HafwError) as caught:
        use(spoil(tmp_path / "spoilt"))
    assert caught.value.hint == cure


@pytest.mark.parametrize("use", [lock, read_file])
@pytest.mark.root(reason="becomes another user")
def test_only_who_is_not_root_is_sent_to_root(tmp_path: Path, use: Use) -> None:
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(HafwError) as caught:
            use(tmp_path / "x")
        assert caught.value.hint == "run as root"
    finally:
        os.seteuid(0)
