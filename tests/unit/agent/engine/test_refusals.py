# SPDX-License-Identifier: GPL-2.0-or-later
"""What is refused is recorded, and fills no journal."""

import pytest

from agent.engine.refusals import MAX_REASONS, Refusals
from agent.model.records import RecordKind
from tests.fakes import MemorySink


def test_refusals_are_recorded_once_in_a_while_whatever_number_is_in_them() -> None:
    sink = MemorySink()
    refusals = Refusals(sink.write)
    for number in range(10_000):
        refusals.refuse(f"a VrrpStatusChange from :1.{number}, which is not keepalived")
        refusals.refuse("a truncated datagram")
    assert len(sink.of(RecordKind.REFUSED)) == 2, "a flood fills the journal"


def test_reasons_without_end_fill_no_memory() -> None:
    refusals = Refusals(MemorySink().write)
    for number in range(1000):
        refusals.refuse("x" * number)
    assert len(refusals._refused) <= MAX_REASONS + 1


def test_the_first_refusal_is_recorded_also_just_after_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MemorySink()
    refusals = Refusals(sink.write)
    monkeypatch.setattr("agent.engine.refusals.time.monotonic", lambda: 1.0)
    refusals.refuse("a truncated datagram")
    assert len(sink.of(RecordKind.REFUSED)) == 1
