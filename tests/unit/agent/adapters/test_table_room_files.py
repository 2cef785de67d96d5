# SPDX-License-Identifier: GPL-2.0-or-later
"""How full the conntrack table is: what its files say, and what they should never say."""

from pathlib import Path

import pytest

from agent.adapters.table_room import read_room
from agent.core.table_room import Room
from agent.errors import UnavailableError
from tests.checkout import RECORDED

STATISTICS = (RECORDED / "nf_conntrack").read_text()


def put(directory: Path, count: str, most: str, statistics: str | None) -> tuple[Path, Path]:
    (directory / "nf_conntrack_count").write_text(count)
    (directory / "nf_conntrack_max").write_text(most)
    if statistics is not None:
        (directory / "stat").write_text(statistics)
    return directory, directory / "stat"


def test_it_adds_up_all_processors(tmp_path: Path) -> None:
    assert read_room(*put(tmp_path, "17\n", "262144\n", STATISTICS)) == Room(17, 262144, 0x1A + 2, 0x10 + 1)


@pytest.mark.parametrize("statistics", [None, "", "entries drop\n0 0\n", "drop early_drop\nx y\n", "\n\n"])
def test_a_kernel_that_does_not_count(tmp_path: Path, statistics: str | None) -> None:
    assert read_room(*put(tmp_path, "17\n", "100\n", statistics)) == Room(17, 100)


@pytest.mark.parametrize(("count", "most"), [("", "1"), ("1", "x")])
def test_a_kernel_that_tracks_nothing(tmp_path: Path, count: str, most: str) -> None:
    with pytest.raises(UnavailableError):
        read_room(*put(tmp_path, count, most, STATISTICS))
    with pytest.raises(UnavailableError):
        read_room(tmp_path / "nowhere")


def test_this_kernel() -> None:
    room = read_room()
    assert room.limit > 0
    assert room.refused >= 0
