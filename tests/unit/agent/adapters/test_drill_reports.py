# SPDX-License-Identifier: GPL-2.0-or-later
"""The reports of drills on the disk."""

import json
import stat
from pathlib import Path

import pytest

from agent.adapters.drill_reports import KEPT, write_report
from agent.errors import HafwError


def test_the_newest_are_kept(tmp_path: Path) -> None:
    places = [tmp_path / "drills" / f"2026{number:04}.json" for number in range(KEPT + 3)]
    for number, place in enumerate(places):
        write_report(place, {"number": number})
    assert sorted(places[0].parent.iterdir()) == places[3:]
    assert json.loads(places[-1].read_text()) == {"number": KEPT + 2}


def test_one_that_is_written_again_is_one_report(tmp_path: Path) -> None:
    place = tmp_path / "one.json"
    for ending in ("begun", "done"):
        write_report(place, {"ending": ending})
    assert json.loads(place.read_text()) == {"ending": "done"}
    assert [*tmp_path.iterdir()] == [place]
    assert stat.S_IMODE(place.stat().st_mode) == 0o640


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "drills").write_text("")
    with pytest.raises(HafwError, match="cannot write the report"):
        write_report(tmp_path / "drills" / "one.json", {})
