# SPDX-License-Identifier: GPL-2.0-or-later
"""One license, in every place that names it."""

import re
import tomllib
from pathlib import Path

import pytest

LICENSE = "GPL-2.0-or-later"
MARK = f"SPDX-License-Identifier: {LICENSE}"
DEBIAN_NAME = "GPL-2+"
"""What machine-readable debian/copyright files call it."""


def test_the_text_is_that_of_the_license(root: Path) -> None:
    text = (root / "LICENSE").read_text(encoding="utf-8")
    title, *_ = (line.strip() for line in text.splitlines())
    assert title == "GNU GENERAL PUBLIC LICENSE"
    assert "Version 2, June 1991" in text
    assert [f"  {number}. " in text for number in range(13)] == [True] * 13, "a section is missing"
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_packages_and_the_project_name_it(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == {"text": LICENSE}
    copyright_file = (root / "packaging" / "debian" / "copyright").read_text(encoding="utf-8")
    assert set(re.findall(r"^License: (.*)$", copyright_file, re.MULTILINE)) == {DEBIAN_NAME}
    assert "/usr/share/common-licenses/GPL-2." in copyright_file, "not the link GPL, which moves on"


def is_marked(path: Path) -> bool:
    """By its first line, or the one below `#!` or `<?xml`; a file with nothing in it needs none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = lines[1:2] if lines and lines[0].startswith(("#!", "<?xml")) else lines[:1]
    return not lines or first in ([f"# {MARK}"], [f'.\\" {MARK}'], [f"<!-- {MARK} -->"])


CONFIGURED = (
    ".editorconfig",
    ".pre-commit-config.yaml",
    "examples",
    "host-tools/hafw_lab/guest",
    "host-tools/topologies",
    "packaging/debian/apparmor",
    "pyproject.toml",
    "systemd",
)
"""What is no code and takes comments: units, rules, examples, the files of the machines."""


def test_every_file_of_configuration_names_it(root: Path, files: tuple[Path, ...]) -> None:
    for place in CONFIGURED:
        found = [path for path in files if path.is_relative_to(root / place)]
        assert found, place
        unmarked = sorted(str(path.relative_to(root)) for path in found if not is_marked(path))
        assert unmarked == [], f"begin each with: # {MARK}"


def test_every_file_of_code_names_it(
    root: Path,
    files: tuple[Path, ...],
    python_files: tuple[Path, ...],
    shell_files: tuple[Path, ...],
) -> None:
    manuals = [path for path in files if path.parent.name == "man"]
    rules = root / "packaging" / "debian" / "rules"
    assert len(manuals) >= 4
    marked = {*python_files, *shell_files, *manuals, rules}
    unmarked = sorted(str(path.relative_to(root)) for path in marked if not is_marked(path))
    assert unmarked == [], f"begin each with: # {MARK}"


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("", True),
        (f"# {MARK}\n", True),
        (f"#!/bin/sh\n# {MARK}\nexit\n", True),
        (f'.\\" {MARK}\n.Dd today\n', True),
        (f"<?xml?>\n<!-- {MARK} -->\n<menu/>\n", True),
        ("[Unit]\n", False),
        ('"""Code."""\n', False),
        ("#!/bin/sh\nexit\n", False),
        (f'"""Code."""\n# {MARK}\n', False),
        (f"# {MARK} WITH some-exception\n", False),
    ],
)
def test_a_file_without_its_line_is_found(tmp_path: Path, text: str, marked: bool) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    assert is_marked(path) is marked
