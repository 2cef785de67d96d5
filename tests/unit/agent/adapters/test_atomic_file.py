# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are written whole, with the owner and the mode of what was there."""

import os
from pathlib import Path

import pytest

from agent.adapters import atomic_file


def test_a_pipe_in_the_place_of_the_new_file_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f".x.{os.getpid()}.hafw-new")
    atomic_file.write(tmp_path / "x", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "new")]


def test_nothing_is_left_of_what_cannot_be_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        atomic_file.write(tmp_path / "x", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.root(reason="gives a file away, which root may")
def test_the_new_file_is_for_whom_the_old_one_was(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    os.chown(path, 4, 12)
    path.chmod(0o2604)
    atomic_file.write(path, "new", 0o600, like=path, durable=True)
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (4, 12, 0o2604)
    atomic_file.write(path, b"newer", 0o640, like=tmp_path / "none")
    found = path.stat()
    assert (found.st_uid, found.st_mode & 0o7777, path.read_bytes()) == (0, 0o640, b"newer")


def test_what_is_written_is_its_writers_alone_until_it_has_its_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private key, under whatever umask."""
    seen, chmod = [], os.fchmod

    def look_and_chmod(descriptor: int, mode: int) -> None:
        found = os.fstat(descriptor)
        seen.append((found.st_mode & 0o7777, found.st_size))
        chmod(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", look_and_chmod)
    before = os.umask(0)
    try:
        atomic_file.write(tmp_path / "key", "secret", 0o640, group=os.getgid())
    finally:
        os.umask(before)
    assert seen == [(0o600, len("secret"))]
    assert (tmp_path / "key").stat().st_mode & 0o7777 == 0o640


def test_what_a_kill_has_left_is_swept_away(tmp_path: Path) -> None:
    for name in (".x.123.hafw-new", ".x.hafw-new", ".x", ".y.123.hafw-new", "x.hafw-new"):
        (tmp_path / name).touch()
    atomic_file.sweep(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x", ".y.123.hafw-new", "x.hafw-new"]
