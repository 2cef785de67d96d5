# SPDX-License-Identifier: GPL-2.0-or-later
"""The note that a node is in maintenance: whatever lies there, nothing else is read from it."""

from pathlib import Path

import pytest

from agent.adapters.maintenance_file import read_maintenance, write_maintenance
from agent.core.maintenance import Maintenance
from agent.errors import HafwError

FULL = Maintenance("2026-01-31T13:00:00+00:00", "a new disk", never=True)


@pytest.mark.parametrize("wanted", [FULL, Maintenance("2026-01-31T13:00:00+00:00")])
def test_it_is_read_as_it_was_written_and_gone_when_it_is_over(tmp_path: Path, wanted: Maintenance) -> None:
    place = tmp_path / "new" / "maintenance"
    assert read_maintenance(place) is None
    write_maintenance(place, wanted)
    assert read_maintenance(place) == wanted
    write_maintenance(place, None)
    write_maintenance(place, None)
    assert read_maintenance(place) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"since": 1, "reason": "", "never": false}',
        '{"since": "x", "reason": "a\\u001b[2J", "never": false}',
        '{"since": "x", "reason": "", "never": "no"}',
        '{"since": "x", "reason": "%s", "never": false}' % ("x" * 999),
        "[" * 3000,
        "x" * 9999,
    ],
)
def test_what_is_no_note_is_said(tmp_path: Path, text: str) -> None:
    place = tmp_path / "maintenance"
    place.write_text(text)
    with pytest.raises(HafwError, match=str(place)):
        read_maintenance(place)
