# SPDX-License-Identifier: GPL-2.0-or-later
"""The arithmetic of the measurements, on made-up traffic."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hafw_lab.traffic.client import Stream
from hafw_lab.traffic.endpoint import MESSAGE
from hafw_lab.traffic.figures import Connection, Gap, ProbeFigures, judge, longest_gap, measure_probe

MS = 1_000_000
LATER = 10_000 * MS


def probe(
    lost: range | tuple[int, ...], *, count: int = 1000, mark: int = 0, delay_ns: int = MS // 2
) -> ProbeFigures:
    sent = [seq * MS for seq in range(count)]
    echoes = [(seq, at + delay_ns) for seq, at in enumerate(sent) if seq not in lost]
    return measure_probe(sent, echoes, mark_seq=mark, now_ns=LATER)


def test_nothing_lost() -> None:
    figures = probe(())
    assert (figures.sent, figures.lost, figures.first_lost, figures.last_lost) == (1000, 0, None, None)
    assert figures.blackout_ns == MS
    assert figures.silence_ns == 0


def test_a_blackout_from_both_sides() -> None:
    figures = probe(range(400, 740))
    assert (figures.lost, figures.first_lost, figures.last_lost) == (340, 400, 739)
    assert figures.blackout_ns == 341 * MS
    assert figures.blackout_from_ns == 399 * MS + MS // 2
    assert figures.resumed_ns == 740 * MS + MS // 2
    assert figures.silence_ns == 341 * MS


def test_the_longest_of_two_blackouts_counts_and_both_losses() -> None:
    figures = probe((*range(100, 120), *range(300, 350)))
    assert (figures.lost, figures.blackout_ns) == (70, 51 * MS)


def test_a_blackout_that_does_not_end_lasts_until_the_last_probe() -> None:
    figures = probe(range(900, 1000))
    assert figures.resumed_ns is None
    assert figures.blackout_ns == 999 * MS - (899 * MS + MS // 2)
    assert figures.silence_ns == 100 * MS


def test_no_echo_at_all() -> None:
    figures = probe(range(1000))
    assert (figures.lost, figures.resumed_ns, figures.blackout_ns) == (1000, None, 999 * MS)


def test_no_probe_at_all() -> None:
    assert measure_probe([], [], mark_seq=0, now_ns=LATER).sent == 0
    assert probe((), mark=1000).sent == 0


def test_what_was_before_the_mark_does_not_count() -> None:
    figures = probe(range(100, 300), mark=500)
    assert (figures.sent, figures.lost, figures.blackout_ns) == (500, 0, MS)


def test_a_probe_that_is_still_under_way_is_not_lost() -> None:
    sent = [0, 100 * MS, 200 * MS, 900 * MS]
    figures = measure_probe(
        sent, [(0, 1), (1, 100 * MS + 1), (2, 200 * MS + 1)], mark_seq=0, now_ns=1000 * MS
    )
    assert (figures.sent, figures.lost, figures.resumed_ns) == (3, 0, 100 * MS + 1)


def test_repeats_and_reordered_echoes() -> None:
    sent = [0, MS, 2 * MS]
    echoes = [(1, 3 * MS), (0, 4 * MS), (1, 50 * MS), (2, 5 * MS)]
    figures = measure_probe(sent, echoes, mark_seq=0, now_ns=LATER)
    assert (figures.lost, figures.blackout_ns) == (0, 3 * MS)


def test_echoes_read_late_are_a_blackout_for_the_receiver_only() -> None:
    sent = [seq * MS for seq in range(100)]
    echoes = [(seq, max(at, 80 * MS) if seq > 20 else at) for seq, at in enumerate(sent)]
    figures = measure_probe(sent, echoes, mark_seq=0, now_ns=LATER)
    assert (figures.blackout_ns, figures.silence_ns, figures.lost) == (60 * MS, 0, 0)


def test_gaps_at_the_edges() -> None:
    assert longest_gap([], 5, 9) == Gap(4, 5, None)
    assert longest_gap([8], 5, 9) == Gap(3, 5, 8)
    assert longest_gap([6], 5, 9) == Gap(3, 6, None)
    assert longest_gap([6, 8], 5, 9) == Gap(2, 6, 8)
    assert longest_gap([6, 12], 5, 9) == Gap(6, 6, 12), "an event after the end still closes its gap"


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_the_longest_gap_is_one_and_no_other_is_longer(times: list[int]) -> None:
    times.sort()
    gap = longest_gap(times, times[0], times[-1])
    edges = set(times)
    assert gap.from_ns in edges
    assert not any(gap.from_ns < time < gap.from_ns + gap.length_ns for time in times)
    assert all(b - a <= gap.length_ns for a, b in pairwise(times))


def messages(*counters: int) -> bytes:
    return b"".join(MESSAGE.pack(counter, 0) for counter in counters)


def test_a_stream_in_pieces_is_intact() -> None:
    stream = Stream(0)
    data = messages(0, 1, 2)
    for at, byte in enumerate(data):
        stream.feed(bytes([byte]), at)
    assert (stream.messages, stream.intact, stream.bytes) == (3, True, len(data))


def test_a_hole_or_a_repeat_spoils_a_stream() -> None:
    for counters in ((0, 2), (0, 0), (1,), (0, 1, 0)):
        stream = Stream(0)
        stream.feed(messages(*counters), 1)
        assert not stream.intact, counters


def test_a_streams_stall() -> None:
    stream = Stream(0)
    for number, at in enumerate((10, 20, 400, 410)):
        stream.feed(messages(number), at)
    assert (stream.stall_ns, stream.stall_from_ns) == (380, 20)
    assert stream.summary(500)["stall_ns"] == 380
    assert stream.summary(1000)["stall_ns"] == 590, "the silence that lasts counts until now"
    stream.mark(1100)
    assert stream.summary(1105)["stall_ns"] == 5


def near(**changes: object) -> dict[str, object]:
    row = {
        "number": 0,
        "messages": 9,
        "intact": True,
        "last_ns": LATER - MS,
        "stall_ns": 5,
        "stall_from_ns": 3,
        "lost": 1,
    }
    return {**row, "ended": None, "ended_ns": 0, **changes}


def far(**changes: object) -> dict[str, object]:
    return {"number": 0, "ended": None, "ended_ns": 0, "lost": 2, **changes}


def one(near_row: dict[str, object], *far_rows: dict[str, object]) -> Connection:
    (connection,) = judge([near_row], far_rows, LATER)
    return connection


def test_a_connection_survives() -> None:
    connection = one(near(), far())
    assert connection.survived
    assert not connection.reset
    assert connection.lost == 3, "of both ends"
    assert connection.resumed_ns == 8


def test_what_a_connection_does_not_survive() -> None:
    assert not one(near(intact=False), far()).survived
    assert not one(near(last_ns=LATER - 1_000 * MS), far()).survived, "silent at the end"
    assert not one(near()).survived, "the server never heard of it"
    assert not one(near(ended="closed", ended_ns=5), far()).survived


def test_the_end_that_sees_the_reset_first_names_it() -> None:
    connection = one(near(), far(ended="ECONNRESET", ended_ns=7))
    assert (connection.reset, connection.survived, connection.ended_ns) == (True, False, 7)
    both = one(near(ended="closed", ended_ns=9), far(ended="EPIPE", ended_ns=7))
    assert (both.ended, both.reset) == ("EPIPE", True)
    assert not one(near(ended="ETIMEDOUT", ended_ns=9), far()).reset


def test_connections_are_matched_by_number() -> None:
    rows = [near(number=3), near(number=4)]
    result = judge(rows, [far(number=4, ended="ECONNRESET", ended_ns=1), far(number=3)], LATER)
    assert [(row.number, row.survived) for row in result] == [(3, True), (4, False)]
