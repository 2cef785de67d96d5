# SPDX-License-Identifier: GPL-2.0-or-later
"""The README and the pages below docs/ show what the code says."""

import os
import re
import subprocess
from pathlib import Path

from agent.core.diagram import to_markdown, to_mermaid
from tests.checkout import ROOT

README = ROOT / "README.md"
HOW_IT_WORKS = ROOT / "docs" / "how-it-works.md"
BEGIN, END = "<!-- diagram -->\n", "<!-- /diagram -->"
MAX_LINES = 150
"""Of the README: what a newcomer reads in a few minutes. The rest is below docs/."""


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_diagram_is_drawn_from_the_table() -> None:
    text = HOW_IT_WORKS.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    shown, after = rest.split(END)
    drawn = f"```mermaid\n{to_mermaid()}\n```\n\n{to_markdown()}\n"
    if os.environ.get("HAFW_WRITE_GOLDEN"):
        HOW_IT_WORKS.write_text(before + BEGIN + drawn + END + after, encoding="utf-8")
        return
    assert shown == drawn, "run: HAFW_WRITE_GOLDEN=1 ./run test tests/static/test_readme.py"


def test_the_packages_are_taken_from_where_they_are_put() -> None:
    """The default of `./run deb` in a checkout of one's own."""
    text = README.read_text(encoding="utf-8")
    run = (README.parent / "run").read_text(encoding="utf-8")
    assert "default: .cache/deb" in run
    steps = text[text.index("    ./run deb ") : text.index("    hafw check ")]
    assert ".cache/deb/hafw-agent_*.deb" in steps


def test_every_command_that_a_page_names_exists(pages: tuple[Path, ...]) -> None:
    done = subprocess.run(
        [README.parent / "run", "help"], capture_output=True, text=True, timeout=20, check=True
    )
    known = set(re.findall(r"^  ([a-z]+) ", done.stdout, re.MULTILINE))
    named = {page: set(re.findall(r"\./run ([a-z]+)", page.read_text(encoding="utf-8"))) for page in pages}
    assert {"demo", "test", "bench", "lab"} <= named[README]
    assert {page.name: words - known for page, words in named.items() if words - known} == {}
