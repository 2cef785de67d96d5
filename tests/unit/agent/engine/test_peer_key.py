# SPDX-License-Identifier: GPL-2.0-or-later
"""What the agent says of a key of the pair that it cannot use."""

from pathlib import Path

import pytest

from agent.engine.peer import read_key
from agent.errors import HafwError


def test_without_a_key_it_says_what_to_type(tmp_path: Path) -> None:
    """As after an upgrade from a release that had none."""
    with pytest.raises(HafwError, match=r"cannot be read: .*; make one"):
        read_key(tmp_path / "pair.pem", "make one")


def test_a_key_that_others_may_have_read_is_not_used(tmp_path: Path) -> None:
    place = tmp_path / "pair.pem"
    place.write_text("a key")
    place.chmod(0o640)
    with pytest.raises(HafwError, match="chmod 600"):
        read_key(place, "")
