"""One licence, in every place that names it."""

import re
import tomllib
from pathlib import Path

LICENSE = "GPL-2.0-or-later"
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
