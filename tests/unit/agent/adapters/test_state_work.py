# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that lists states, without a kernel's table."""

from pathlib import Path

from agent.adapters.state_work import OOM_SCORE, Job, WorkDone, be_first_to_go


def test_it_is_ended_before_the_agent_where_memory_is_short(tmp_path: Path) -> None:
    place = tmp_path / "oom_score_adj"
    place.touch()
    be_first_to_go(place)
    assert int(place.read_text()) == OOM_SCORE > 0
    be_first_to_go(tmp_path / "no" / "such" / "place")


def test_what_it_is_given_and_what_it_answers_come_whole() -> None:
    job = Job("touch", ("0a000001",), 40_000.0, b"\n\0any hashes", b"\n\0own", (0.25, 0.1, 300.0))
    assert Job.from_bytes(job.to_bytes()) == job
    done = WorkDone({"tcp": 3}, 2, b"\n\0any", "a reason", b"\nalone", b"ended")
    assert WorkDone.from_bytes(done.to_bytes()) == done
