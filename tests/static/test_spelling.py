# SPDX-License-Identifier: GPL-2.0-or-later
"""Names are spelled American, too."""

from pathlib import Path

import pytest

from tests.static.test_tools import NO_MISTAKES, check, require_tool


def check_names(root: Path, *names: str) -> None:
    """Each word that a name is made of: codespell takes one with underscores for one word."""
    words = ("-r", "[A-Z]+(?![a-z])|[A-Z]?[a-z]+", "-L", ",".join(NO_MISTAKES))
    check(root, require_tool("codespell"), "--builtin", "en-GB_to_en-US", *words, *names)


def test_names_are_american(root: Path, files: tuple[Path, ...]) -> None:
    check_names(root, *(str(path.relative_to(root)) for path in files))


@pytest.mark.parametrize("name", ["NEIGHBOR_TABLE", "_behavior", "ColorMap", "test_an_odd_color_is"])
def test_a_british_name_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "american.py").write_text(name)
    check_names(tmp_path, "american.py")
    (tmp_path / "british.py").write_text(name.replace("or", "our").replace("OR", "OUR"))
    with pytest.raises(AssertionError, match=r"british\.py:1: \w+ ==> "):
        check_names(tmp_path, "british.py")
