# SPDX-License-Identifier: GPL-2.0-or-later
"""Generations on disk: kept, listed, put in place, and whole after a cut at any moment."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config.files import Files
from agent.errors import HafwError
from agent.rollout.generations import KEPT, Generations, Pending, boot_id
from tests.checkout import ROOT

A: Files = (("hafw.yaml", "a\n"),)
B: Files = (("new.yaml", "b\n"), ("rules/web.yaml", "web b\n"), ("more.yaml", "more b\n"))
LATER_S = 10_000.0


class Cut(BaseException):
    """The power goes, or kill -9 comes."""


@pytest.fixture
def made(tmp_path: Path) -> Generations:
    return Generations(tmp_path / "lib")


@pytest.fixture
def pair_file(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "hafw.yaml"
    path.parent.mkdir()
    path.write_text("a\n")
    return path


def pending(number: int, back_to: int, in_s: float, boot: str | None = None) -> Pending:
    deadline_s = time.clock_gettime(time.CLOCK_BOOTTIME) + in_s
    return Pending("0123", number, back_to, deadline_s, boot or boot_id())


def test_what_was_added_is_known_with_all_its_files(made: Generations) -> None:
    assert made.known() == ()
    assert made.newest() is None
    first = made.add(A, "root", "apply", "11")
    second = made.add(B, "alice", "apply", "22")
    assert (first.number, second.number) == (1, 2)
    assert made.known() == (first, second)
    assert made.newest() == second
    assert made.require(2).files == B
    with pytest.raises(HafwError, match="there is no generation 3; known: 1, 2"):
        made.require(3)


def test_the_same_files_again_are_no_new_generation(made: Generations) -> None:
    first = made.note(A, "hafw", "started", "11")
    assert made.note((("hafw.yaml", "a\n"),), "hafw", "reloaded", "11") == first
    assert made.note(B, "hafw", "reloaded", "22").number == 2
    # going back is something that happened
    assert made.note(A, "hafw", "reloaded", "11").number == 3


def test_the_last_ten_are_kept_and_what_a_pending_apply_needs(made: Generations) -> None:
    for number in range(KEPT):
        made.add((("hafw.yaml", f"{number}\n"),), "root", "apply", "11")
    made.set_pending(pending(2, 1, LATER_S))
    for number in range(5):
        made.add((("hafw.yaml", f"more {number}\n"),), "root", "apply", "11")
    assert [one.number for one in made.known()] == [1, 2, *range(6, 16)]
    made.clear_pending()
    made.add(A, "root", "apply", "11")
    assert [one.number for one in made.known()] == list(range(7, 17))


def test_what_waits_says_when_it_goes() -> None:
    assert pending(2, 1, LATER_S).describe() == (
        "generation 1 comes back in 10000 s unless you say: hafw rules confirm"
    )
    assert "comes back in 0 s" in pending(2, 1, -LATER_S).describe()


def test_what_waits_and_cannot_be_read_is_none_or_an_error(made: Generations, tmp_path: Path) -> None:
    assert made.find_pending() is None
    made.set_pending(pending(2, 1, LATER_S))
    assert made.find_pending() == made.pending() is not None
    (tmp_path / "lib" / "pending").write_text("no note")
    assert made.pending() is None
    with pytest.raises(HafwError, match="pending is invalid"):
        made.find_pending()


def test_a_generation_goes_where_the_agent_reads_it(made: Generations, pair_file: Path) -> None:
    pair_file.chmod(0o604)
    pair_file.with_name(".hafw.yaml.1.hafw-new").touch()  # of one that was killed
    made.install(made.add(B, "root", "apply", "22").number, pair_file)
    assert pair_file.read_text() == "b\n"
    assert pair_file.stat().st_mode & 0o777 == 0o604
    assert (pair_file.parent / "rules" / "web.yaml").read_text() == "web b\n"
    assert sorted(path.name for path in pair_file.parent.iterdir()) == ["hafw.yaml", "more.yaml", "rules"]


def test_a_link_stays_one(made: Generations, pair_file: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.yaml"
    pair_file.rename(kept)
    pair_file.symlink_to(kept)
    made.install(made.add((("x", "b\n"),), "root", "apply", "22").number, pair_file)
    assert pair_file.is_symlink()
    assert kept.read_text() == "b\n"


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.yaml", "a/../../up.yaml", ""])
def test_nothing_is_written_outside(made: Generations, name: str) -> None:
    with pytest.raises(HafwError, match="not below the directory"):
        made.add((*A, (name, "x")), "root", "apply", "11")
    assert made.known() == ()


NO_GENERATIONS = [
    "",
    "{}",
    "[]",
    "null",
    "{" * 10_000,
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"number": "x"}',
    '{"number": 1e400}',
    '{"number": -1e400, "files": []}',
    '{"number": NaN}',
    '{"number": ' + "9" * 5000 + "}",
    *(
        '{{"number": {}, "at": "", "who": "", "why": "", "rules": {}, "files": {}}}'.format(*values)
        for values in (
            ("2.0", '""', '[["a", "b"]]'),
            ("true", '""', '[["a", "b"]]'),
            ("3", '""', '[["a", "b"]]'),
            ("2", "{}", '[["a", "b"]]'),
            ("2", '""', "[]"),
            ("2", '""', "1e400"),
            ("2", '""', '{"ab": 1, "cd": 2}'),
            ("2", '""', '[["a", "b", "c"]]'),
            ("2", '""', '[["a", 1e400]]'),
            ("2", '""', r'[["a", "\\ud800"]]'.replace("\\\\", "\\")),
            ("2", '""', r'[["a", "b"], ["c\\u0000", "d"]]'.replace("\\\\", "\\")),
            ("2", '""', '[["a", "b"], ["../c", "d"]]'),
        )
    ),
]


@pytest.mark.parametrize("text", NO_GENERATIONS, ids=lambda text: text[-40:])
def test_a_file_that_is_no_generation_is_none(made: Generations, tmp_path: Path, text: str) -> None:
    made.add(A, "root", "apply", "11")
    (tmp_path / "lib" / "generations" / "2.json").write_text(text)
    assert [one.number for one in made.known()] == [1]
    assert ["2.json" in reason for reason in made.unusable()] == [True]
    with pytest.raises(HafwError, match=r"2\.json"):
        made.require(2)
    with pytest.raises(HafwError, match=r"there is no generation 9; known: 1$"):
        made.require(9)
    assert made.add(B, "root", "apply", "22").number == 3


@pytest.mark.parametrize("name", ["pending", "installing"])
@pytest.mark.parametrize(
    "text",
    [
        *NO_GENERATIONS[:12],
        '{"number": 77}',
        '{"number": 2, "back_to": 77, "identity": "x", "deadline_s": 0.0, "boot": "x"}',
        '{"number": 1e400, "back_to": 1, "identity": "x", "deadline_s": 0.0, "boot": "x"}',
        '{"number": 77, "back_to": 1, "identity": "x", "deadline_s": NaN, "boot": "x"}',
        '{"number": 77, "back_to": 1, "identity": "x", "deadline_s": 1e400, "boot": "x"}',
        '{"number": 77, "back_to": 1, "identity": 5, "deadline_s": 0, "boot": "x"}',
    ],
    ids=lambda text: text[:40],
)
def test_a_note_that_cannot_be_parsed_is_put_aside_and_reported_once(
    made: Generations, pair_file: Path, tmp_path: Path, name: str, text: str
) -> None:
    made.add(B, "root", "apply", "22")
    note = tmp_path / "lib" / name
    note.write_text(text)
    assert f"{name}.unusable" in str(made.finish(pair_file))
    assert made.finish(pair_file) is None
    assert not note.exists()
    assert pair_file.read_text() == "a\n"


def test_a_pending_apply_is_due_by_time_or_after_a_boot(made: Generations, pair_file: Path) -> None:
    first, second = made.add(A, "root", "apply", "11"), made.add(B, "root", "apply", "22")
    made.install(second.number, pair_file)
    made.set_pending(pending(second.number, first.number, LATER_S))
    assert made.finish(pair_file) is None
    assert pair_file.read_text() == "b\n"
    for due in (pending(2, 1, -1.0), pending(2, 1, LATER_S, boot="another")):
        made.install(second.number, pair_file)
        made.set_pending(due)
        assert "not confirmed; back to generation 1" in str(made.finish(pair_file))
        assert pair_file.read_text() == "a\n"
        assert made.pending() is None


@pytest.mark.parametrize("cut_at", range(40))
def test_a_cut_leaves_the_old_or_the_new(
    made: Generations, pair_file: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    """Before every call that changes a directory, or makes something last."""
    old, files = made.add(A, "root", "apply", "11"), pair_file.parent
    made.install(old.number, pair_file)
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > cut_at:
                raise Cut
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "fsync", "unlink", "mkdir"):
            patched.setattr(os, name, counted(getattr(os, name)))
        try:
            made.install(made.add(B, "root", "apply", "22").number, pair_file)
            finished = True
        except Cut:
            finished = False
    made.finish(pair_file)
    texts = {str(path.relative_to(files)): path.read_text() for path in files.rglob("*") if path.is_file()}
    seen = {name: text for name, text in texts.items() if not Path(name).name.startswith(".")}
    new = {"hafw.yaml": "b\n", "rules/web.yaml": "web b\n", "more.yaml": "more b\n"}
    assert seen in ({"hafw.yaml": "a\n"}, new)
    assert not finished or seen == new
    assert finished or cut_at < 39, "more calls than are cut"
    assert made.newest() is not None
    # whatever was left half done is no obstacle
    made.install(made.add(A, "root", "apply", "11").number, pair_file)
    assert pair_file.read_text() == "a\n"


@pytest.mark.root(reason="gives files to others")
@pytest.mark.parametrize("link", [False, True])
def test_who_may_read_the_installed_files_still_may(made: Generations, pair_file: Path, link: bool) -> None:
    made.add(B, "root", "apply", "22")
    real = pair_file
    if link:
        real = pair_file.rename(pair_file.with_name("real.yaml"))
        pair_file.symlink_to(real.name)
    included = pair_file.with_name("more.yaml")
    included.touch()
    for path, mode, group in ((real, 0o640, 4711), (included, 0o604, 4712)):
        os.chown(path, 0, group)
        path.chmod(mode)
    made.install(1, pair_file)
    assert real.read_text() == "b\n"
    assert included.read_text() == "more b\n"
    assert (real.stat().st_gid, real.stat().st_mode & 0o7777) == (4711, 0o640)
    assert (included.stat().st_gid, included.stat().st_mode & 0o7777) == (4712, 0o604)


INSTALL = """
import sys
from pathlib import Path
from agent.rollout.generations import Generations
Generations(Path(sys.argv[1])).install(1, Path(sys.argv[2]))
"""


@pytest.mark.root(reason="gives a file to others")
def test_who_may_not_give_a_file_away_installs_it_all_the_same(
    made: Generations, pair_file: Path, tmp_path: Path
) -> None:
    made.add(B, "root", "apply", "22")
    pair_file.chmod(0o640)
    os.chown(pair_file, 0, 4711)
    drop = ["setpriv", "--bounding-set=-chown", "--inh-caps=-chown", "--clear-groups"]
    argv = [*drop, sys.executable, "-P", "-c", INSTALL, str(tmp_path / "lib"), str(pair_file)]
    subprocess.run(argv, env={"PATH": "/usr/sbin:/usr/bin", "PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    assert pair_file.read_text() == "b\n"
    assert (pair_file.stat().st_gid, pair_file.stat().st_mode & 0o7777) == (0, 0o640)
