# SPDX-License-Identifier: GPL-2.0-or-later
"""The man pages as the programs that show them read them (what they say: tests/static/test_manual.py)."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.checkout import ROOT

MAN = ROOT / "packaging" / "debian" / "man"


@pytest.mark.parametrize("page", sorted(MAN.iterdir()), ids=lambda page: page.name)
def test_pages_are_rendered_without_a_warning(page: Path) -> None:
    """By groff, as `man` does and lintian demands, and by mandoc, which knows the language better."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    man = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
    for argv in (man, ["mandoc", "-Tlint", "-Wwarning", str(page)]):
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60, check=False)
        said = done.stderr + (done.stdout if argv[0] == "mandoc" else "")
        assert (done.returncode, said) == (0, ""), argv[0]
