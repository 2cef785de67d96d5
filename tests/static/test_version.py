# SPDX-License-Identifier: GPL-2.0-or-later
"""The version stands in the changelog of the Debian packages, and whoever says it reads it there."""

import re
from pathlib import Path

import pytest

from agent import __version__

HOME = Path("packaging/debian/changelog")
HISTORIES = {HOME, Path("CHANGELOG.md")}
PICTURES = Path("docs/pictures")
"""Of a run, with what it was made with."""
OURSELVES = Path("tests/static/test_version.py")

OF_HAFW = re.compile(
    r"hafw(?:-\w+)?[ _/]v?\d+\.\d+|^_*version_* *= *[\"']v?\d", re.IGNORECASE | re.MULTILINE
)
"""Whatever number it is: one that was forgotten is an old one."""


def find_versions(text: str, ours: list[str]) -> list[str]:
    """The places in a text that say a version of hafw's."""
    known = "|".join(re.escape(version) for version in ours)
    same = re.findall(rf"(?<![\w.:/-])v?(?:{known})(?![\w.:/]*\w)", text)
    return [*same, *OF_HAFW.findall(text)]


@pytest.fixture
def released(root: Path) -> list[str]:
    return re.findall(r"^hafw \(([^)]+)\)", (root / HOME).read_text(), re.MULTILINE)


def test_it_is_the_newest_of_the_changelog(released: list[str]) -> None:
    assert __version__ == released[0]


def test_nothing_else_says_it(root: Path, files: tuple[Path, ...], released: list[str]) -> None:
    said = {}
    for path in files:
        name = path.relative_to(root)
        if name in HISTORIES | {OURSELVES} or PICTURES in name.parents:
            continue
        if found := find_versions(path.read_text(errors="replace"), released):
            said[str(name)] = found
    assert not said, f"the version stands in {HOME} only"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('version = "3.2.1"', True),
        ("__version__ = '0.0.1'", True),
        (".Os hafw 0.9", True),
        ("hafw-lab v2.0 is here", True),
        ("built with 3.2.1.", True),
        ("Depends: hafw-agent_3.2.1", True),
        ("since v3.2.1-1", True),
        ("10.3.2.1 and 3.2.1.10 and 13.2.1", False),
        ("3.2.1.0/24", False),
        ("version: 2", False),
        ("keepalived 2.2.7", False),
    ],
)
def test_what_counts_as_one(text: str, found: bool) -> None:
    assert bool(find_versions(text, ["3.2.1"])) is found
