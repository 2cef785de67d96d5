# SPDX-License-Identifier: GPL-2.0-or-later
"""What an agent makes of the number that keepalived reads when it starts."""

from pathlib import Path

import pytest

from agent.core.roles import Standing
from agent.engine.readiness import FAULT, Readiness

NOT_READY = -11


def left_by(place: Path, not_ready: int, standing: Standing, *, ready: bool = False) -> int:
    """What an earlier agent has left."""
    readiness = Readiness(place, not_ready)
    readiness.write(ready)
    readiness.stand(standing)
    return int(place.read_text())


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("not_ready", [NOT_READY, -127, -251])
def test_a_node_that_stands_back_does_so_with_the_next_agent(
    tmp_path: Path, not_ready: int, ready: bool
) -> None:
    place = tmp_path / "ready"
    number = left_by(place, not_ready, Standing.STANDS_BACK, ready=ready)
    readiness = Readiness(place, not_ready)
    assert readiness.rejoin(preempt=True) is Standing.STANDS_BACK
    readiness.write(True)
    assert int(place.read_text()) == number
    readiness.stand(Standing.TAKES_PART)
    assert place.read_text() == "0\n"


@pytest.mark.parametrize(
    ("text", "not_ready"),
    [
        ("0\n", NOT_READY),
        (f"{NOT_READY}\n", NOT_READY),
        ("-1\n", NOT_READY),  # of other priorities
        ("", NOT_READY),
        ("words\n", NOT_READY),
        (f"{FAULT + 1}\n", FAULT + 1),  # no number is lower: the node is not ready, or stands back
    ],
)
def test_every_other_number_takes_part(tmp_path: Path, text: str, not_ready: int) -> None:
    place = tmp_path / "ready"
    place.write_text(text)
    assert Readiness(place, not_ready).rejoin(preempt=True) is Standing.TAKES_PART
    assert place.read_text() == text


def test_without_preempt_no_node_stands_back(tmp_path: Path) -> None:
    place = tmp_path / "ready"
    left_by(place, NOT_READY, Standing.STANDS_BACK)
    assert Readiness(place, NOT_READY).rejoin(preempt=False) is Standing.TAKES_PART


def test_after_a_boot_there_is_no_number(tmp_path: Path) -> None:
    assert Readiness(tmp_path / "ready", NOT_READY).rejoin(preempt=True) is Standing.TAKES_PART


def test_a_fault_is_ended(tmp_path: Path) -> None:
    place = tmp_path / "ready"
    assert left_by(place, NOT_READY, Standing.GIVES_UP) == FAULT
    assert Readiness(place, NOT_READY).rejoin(preempt=True) is Standing.TAKES_PART
    assert int(place.read_text()) == NOT_READY
