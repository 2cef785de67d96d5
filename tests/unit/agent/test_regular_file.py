# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read whole: regular files of a size, that nobody but root could have written. Nothing waits."""

import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import loader
from agent.errors import ConfigError
from agent.regular_file import UnfitFileError, find_weakness, read_regular
from tests.unit.agent.small_pair import SMALL

NOBODY = 65534
LIMIT_S = 10
INCLUDED = "policy: []\n"

needs_root = pytest.mark.root(reason="gives files to others")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With a pair file that names two others. Its own name has to be quoted in a shell."""
    path = tmp_path / "the pair; $1"
    path.mkdir(mode=0o755)
    text = SMALL + "include: more.yaml\nsets: {listed: {file: listed.txt}}\n"
    for name, content in (("hafw.yaml", text), ("more.yaml", INCLUDED), ("listed.txt", "203.0.113.9\n")):
        (path / name).write_text(content)
        (path / name).chmod(0o644)
    loader.load(path / "hafw.yaml")
    return path


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


KINDS: list[tuple[Callable[[Path], object], str]] = [
    (os.mkfifo, "is a pipe"),
    (Path.mkdir, "is a directory"),
    (bind, "is a socket"),
    (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    (lambda path: path.symlink_to(path.name), "symbolic links"),
    (lambda path: path.symlink_to("nowhere"), "No such file"),
    (lambda path: None, "No such file"),
]


@pytest.mark.parametrize(("make", "says"), KINDS)
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "x"
    make(path)
    with pytest.raises(UnfitFileError, match=says):
        read_regular(path, 10)


@pytest.mark.parametrize("name", ["hafw.yaml", "more.yaml", "listed.txt"])
@pytest.mark.parametrize("make", [make for make, _ in KINDS])
def test_nor_is_it_as_a_pair_file_or_in_one(
    directory: Path, make: Callable[[Path], object], name: str
) -> None:
    (directory / name).unlink()
    make(directory / name)
    with pytest.raises(ConfigError) as caught:
        loader.load(directory / "hafw.yaml")
    assert len(caught.value.problems) == 1


def test_a_name_that_no_file_has() -> None:
    for name in ("x" * 5000, "a\0b", ""):
        with pytest.raises(UnfitFileError, match=r"cannot be read|is a directory"):
            read_regular(Path(name), 10)


def test_a_file_that_grows_without_end_is_read_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 11)
    assert read_regular(path, 11) == b"x" * 11
    os.truncate(path, 1 << 40)
    with pytest.raises(UnfitFileError, match="at most 11 bytes"):
        read_regular(path, 11)


def test_everything_that_a_pair_file_names_has_a_limit(directory: Path) -> None:
    """Two lists that fit one by one were taken, and could then not be kept."""
    text = (directory / "hafw.yaml").read_text().replace("sets: {", "sets: {other: {file: other.txt}, ")
    (directory / "hafw.yaml").write_text(text)
    line = "# " + "x" * 997 + "\n"
    (directory / "listed.txt").write_text("203.0.113.9\n" + line * 9_000)
    (directory / "other.txt").write_text("203.0.113.9\n")
    loader.load(directory / "hafw.yaml")
    (directory / "other.txt").write_text("203.0.113.9\n" + line * 9_000)
    with pytest.raises(ConfigError, match=r"listed\.txt does not fit: .* at most 16777216 bytes together"):
        loader.load(directory / "hafw.yaml")


def test_a_pair_file_names_not_more_than_so_many_files(directory: Path) -> None:
    sets = ", ".join(f"s{number}: {{file: f{number}.txt}}" for number in range(300))
    for number in range(300):
        (directory / f"f{number}.txt").write_text("203.0.113.9\n")
    (directory / "hafw.yaml").write_text(SMALL + f"sets: {{{sets}}}\n")
    with pytest.raises(ConfigError, match="names at most 256 files"):
        loader.load(directory / "hafw.yaml")


def give_to_a_group(path: Path) -> None:
    os.chown(path, 0, 5)
    path.chmod(0o664)


WEAK: list[tuple[str, Callable[[Path], object], str]] = [
    *(
        (name, spoil, says)
        for name in ("hafw.yaml", "more.yaml", "listed.txt")
        for spoil, says in (
            (lambda path: path.chmod(0o666), "can be written by others than root (mode 666)"),
            (give_to_a_group, "mode 664"),
            (lambda path: os.chown(path, NOBODY, 0), f"belongs to user {NOBODY}"),
        )
    ),
    (".", lambda path: path.chmod(0o777), "mode 777"),
    (".", lambda path: os.chown(path, NOBODY, 0), f"belongs to user {NOBODY}"),
    ("..", lambda path: path.chmod(0o777), "mode 777"),
]


def do_what_it_says(text: str) -> None:
    """Where the file is an included one, the line that names it follows the command."""
    found = re.search(r"; run: `(.+)`(?: \(line \d+\))?$", text, re.MULTILINE)
    assert found is not None, text
    subprocess.run(["/bin/sh", "-c", found[1]], check=True, timeout=LIMIT_S)


@needs_root
@pytest.mark.parametrize(("name", "spoil", "says"), WEAK)
def test_root_reads_nothing_that_others_could_have_written(
    directory: Path, name: str, spoil: Callable[[Path], object], says: str
) -> None:
    spoil(directory / name)
    with pytest.raises(ConfigError) as caught:
        loader.load(directory / "hafw.yaml")
    assert says in str(caught.value)
    do_what_it_says(str(caught.value))
    loader.load(directory / "hafw.yaml")


@needs_root
def test_nor_by_a_way_that_others_could_change(directory: Path, tmp_path: Path) -> None:
    """A link in a directory of theirs, in the middle of the way."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    (theirs / "link").symlink_to(directory)
    (tmp_path / "way").symlink_to(theirs / "link")
    loader.load(directory / "hafw.yaml")
    theirs.chmod(0o777)
    assert "mode 777" in str(find_weakness(tmp_path / "way" / "hafw.yaml"))
    theirs.chmod(0o1777)
    assert find_weakness(tmp_path / "way" / "hafw.yaml") is None
    os.lchown(theirs / "link", NOBODY, NOBODY)
    found = str(find_weakness(tmp_path / "way" / "hafw.yaml"))
    assert f"user {NOBODY}" in found
    do_what_it_says(found)
    assert find_weakness(tmp_path / "way" / "hafw.yaml") is None


@needs_root
def test_a_file_of_roots_in_a_directory_like_tmp_is_safe(directory: Path) -> None:
    directory.chmod(0o1777)
    loader.load(directory / "hafw.yaml")


@needs_root
def test_the_one_who_called_sudo_counts_as_root(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(directory / "hafw.yaml", NOBODY, NOBODY)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    loader.load(directory / "hafw.yaml")


def test_an_ordinary_user_checks_a_draft(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (directory / "hafw.yaml").chmod(0o666)
    loader.load(directory / "hafw.yaml")


@needs_root
def test_the_kind_of_a_file_comes_before_its_mode(tmp_path: Path) -> None:
    """chmod of a device, or of a directory like /tmp, would be followed by somebody."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    for path, kind in ((Path("/dev/null"), "is a device"), (theirs, "is a directory")):
        with pytest.raises(ConfigError) as caught:
            loader.load(path)
        assert f"{kind}; name a regular file" in str(caught.value)
        assert "chmod" not in str(caught.value)
