# SPDX-License-Identifier: GPL-2.0-or-later
"""What a drill reports is what was seen, and no more than that."""

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.core.drill import (
    EXIT_STATUS,
    NOT_MEASURED,
    Address,
    ConnectionsLeft,
    DrillEnd,
    DrillReport,
    Leg,
    Seen,
    VipOnLink,
    conclude,
    describe_plan,
    silence_away_ms,
    silence_back_ms,
    to_text,
)

REPORT = DrillReport(
    "2026-11-30T12:00:00+00:00",
    "fw-1",
    "fw-2",
    "root",
    DrillEnd.DONE,
    away=Leg("handed over to fw-2 in 1.80 s", seconds=1.8, gap_ms=70.0),
    back=Leg("handed over to fw-1 in 1.90 s", seconds=1.9, gap_ms=60.0),
    addresses=(
        Address("eth0", "192.0.2.1", 72.5, 61.0, 400, 380),
        Address("eth1", "198.51.100.1", None, 66.0, 400, 100),
        Address("eth3", "203.0.113.1", why_not="fw-2 does not answer there"),
    ),
    connections=ConnectionsLeft(5, 4),
    every_ms=5.0,
    late_ms=1.0,
)
FAILED = Leg(error="the handover failed: fw-2 did not take over")


def test_a_gap_is_between_two_moments_of_this_node() -> None:
    assert silence_away_ms(Seen(ceased_s=10.0, first_s=10.0725, last_s=12.0)) == 72.5
    assert silence_back_ms(Seen(first_s=9.0, last_s=10.0, held_s=10.061)) == 61.0


@pytest.mark.parametrize(
    "seen", [Seen(), Seen(ceased_s=10.0), Seen(first_s=10.0, last_s=10.0), Seen(held_s=10.0)]
)
def test_what_was_not_seen_is_no_figure(seen: Seen) -> None:
    assert silence_away_ms(seen) is None
    assert silence_back_ms(seen) is None


def test_both_having_an_address_for_a_moment_is_no_gap() -> None:
    assert silence_away_ms(Seen(ceased_s=10.0, first_s=9.9, last_s=11.0)) == 0.0
    assert silence_back_ms(Seen(first_s=9.0, last_s=10.1, held_s=10.0)) == 0.0


@pytest.mark.parametrize(
    ("away", "back", "primary", "ending", "status"),
    [
        (Leg("handed over"), Leg("handed over"), True, DrillEnd.DONE, 0),
        (FAILED, None, True, DrillEnd.FAILED, 1),
        (Leg("handed over"), Leg(error="fw-2 failed"), True, DrillEnd.FAILED, 1),
        (Leg("handed over"), Leg(error="not ready"), False, DrillEnd.NOT_BACK, 3),
        (Leg("handed over"), Leg("handed over"), False, DrillEnd.NOT_BACK, 3),
        (FAILED, Leg(error="not heard"), False, DrillEnd.NOT_BACK, 3),
    ],
)
def test_the_ending_is_what_this_node_is_afterwards(
    away: Leg, back: Leg | None, primary: bool, ending: DrillEnd, status: int
) -> None:
    assert conclude(away, back, primary=primary) is ending
    assert EXIT_STATUS[ending] == status


def test_one_sentence_has_the_longest_gap_each_way_and_the_connections() -> None:
    text = REPORT.summary()
    assert "for at most 72 ms on the way there and for at most 66 ms on the way back" in text
    assert text.endswith("4 of 5 established TCP connections through the pair are left")
    assert replace(REPORT, connections=ConnectionsLeft(0, 0)).summary().endswith("through the pair before")
    assert "were not compared" in replace(REPORT, connections=None).summary()
    assert "for a time that was not seen on the way there" in replace(REPORT, addresses=()).summary()


def test_the_table_has_every_address_and_what_was_not_measured() -> None:
    lines = to_text(REPORT).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert rows["192.0.2.1"] == ["eth0", "72.5", "61.0", "380", "of", "400"]
    assert rows["198.51.100.1"][:3] == ["eth1", "-", "66.0"]
    assert " ".join(rows["203.0.113.1"]) == "eth3 - - fw-2 does not answer there"
    assert f"Not measured: {NOT_MEASURED}." in lines
    assert lines[-1] == "fw-1 is primary again."


def test_what_failed_says_which_node_is_primary_and_which_command_is_for_later() -> None:
    failed = replace(REPORT, ending=DrillEnd.FAILED, away=FAILED, back=None)
    assert "fw-1 is primary as before" in failed.summary()
    assert to_text(failed).splitlines()[-1] == "fw-1 is primary as before."
    assert "No node answered" not in to_text(failed)
    left = replace(REPORT, ending=DrillEnd.NOT_BACK, back=Leg(error="fw-1 has not got all states yet"))
    assert "fw-2 has not handed back: fw-1 has not got all states yet" in left.summary()
    assert to_text(left).splitlines()[-1].endswith("on fw-2: hafw handover")


def test_a_report_for_programs_is_plain_values() -> None:
    found = json.loads(json.dumps(REPORT.values()))
    assert found["schema"] == 1
    assert found["ending"] == "done"
    assert found["text"] == REPORT.summary()
    assert found["addresses"][0]["away_ms"] == 72.5
    assert found["back"]["gap_ms"] == 60.0
    assert found["not_measured"] == NOT_MEASURED


def test_the_plan_names_the_nodes_the_addresses_and_what_is_not_measured() -> None:
    seen, unseen = VipOnLink("eth0", ip_address("192.0.2.1")), VipOnLink("eth1", ip_address("2001:db8::1"))
    text = describe_plan(("fw-1", "fw-2"), (seen,), {unseen: "fw-2 does not answer there"}, 5.0)
    assert "fw-1 hands over to fw-2, and fw-2 hands back" in text
    assert "every 5 ms\n    192.0.2.1 (eth0)\n" in text
    assert "not 2001:db8::1 (eth1): fw-2 does not answer there" in text
    assert NOT_MEASURED in text
