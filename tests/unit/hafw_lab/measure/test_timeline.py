# SPDX-License-Identifier: GPL-2.0-or-later
"""From logs and records to one list of moments."""

import json

from hafw_lab.client.records import parse_records
from hafw_lab.measure.timeline import (
    AgentFigures,
    Moment,
    agent_figures,
    agent_moments,
    keepalived_moments,
    relative,
    stock_figures,
    traffic_moments,
)
from hafw_lab.traffic.figures import Connection, ProbeFigures

MS = 1_000_000
SYSLOG = """\
[   100.000001] Nov 22 16:15:05 Keepalived_vrrp[8]: (VI_eth1_4) Receive advertisement timeout
[   100.250000] Nov 22 16:15:05 Keepalived_vrrp[8]: (VI_eth1_4) Entering MASTER STATE
[   100.300000] Nov 22 16:15:05 conntrack-tools[6]: committing all external caches
[   100.400000] Nov 22 16:15:05 conntrack-tools[6]: Committed 20050 new entries
[   100.400100] Nov 22 16:15:05 conntrack-tools[6]: commit has taken 1.023400 seconds
[   100.500000] Nov 22 16:15:06 conntrack-tools[6]: Committed 0 new expectations
[   100.500100] Nov 22 16:15:06 conntrack-tools[6]: commit has taken 0.000112 seconds
a line that was cut off [   1
"""


def test_keepalived_changes_of_state_with_their_time() -> None:
    assert list(keepalived_moments(SYSLOG, "fw-2")) == [
        Moment(100_250_000_000, "fw-2", "keepalived: VI_eth1_4 is MASTER")
    ]


def test_a_stamp_with_few_digits_is_not_read_as_a_tiny_one() -> None:
    (moment,) = keepalived_moments("[7.5] (VI_1) Entering FAULT STATE", "fw-1")
    assert moment.at_ns == 7_500_000_000


def test_the_stock_scripts_commit() -> None:
    assert stock_figures(SYSLOG, 0) == AgentFigures(commit_ms=1023.4, committed=20050)
    assert stock_figures(SYSLOG, 101_000_000_000) == AgentFigures()


def record(at_ms: int, **fields: object) -> dict[str, object]:
    return {"mono_ns": at_ms * MS, **fields}


RECORDS = (
    record(5, event="transition", to="primary", transition="old", notified_to_open_ms=99.0),
    record(20, event="transition", to="backup", transition="x"),
    record(25, event="step", transition="x", step="CommitStates", duration_ms=3.0, expected=9, committed=9),
    record(30, event="step", transition="a", step="CommitStates", duration_ms=12.5, expected=7, committed=7),
    record(31, event="step", transition="a", step="SwitchRules", duration_ms=1.0),
    record(32, event="transition", to="primary", transition="a", notified_to_open_ms=14.0),
    record(40, event="step", transition="b", step="CommitStates", duration_ms=1.0, expected=1, committed=0),
)


def test_the_agents_own_figures() -> None:
    assert agent_figures(RECORDS, 10 * MS) == AgentFigures(14.0, 12.5, 7, 7)


def test_an_older_transition_is_not_taken_for_this_one() -> None:
    assert agent_figures(RECORDS, 0).notified_to_open_ms == 99.0
    assert agent_figures(RECORDS, 33 * MS) == AgentFigures()


def test_without_a_commit_there_are_no_figures_of_one() -> None:
    records = (record(1, event="transition", to="primary", transition="a", notified_to_open_ms=2.5),)
    assert agent_figures(records, 0) == AgentFigures(2.5)


def test_records_survive_a_cut_off_line_and_garbage() -> None:
    lines = [json.dumps(RECORDS[0]), "[1, 2]", '{"mono_ns": 12', "", "null"]
    assert parse_records("\n".join(lines)) == (RECORDS[0],)


def test_what_a_record_says() -> None:
    records = (
        record(1, message="in force"),
        record(2, event="step", step="x", result="done"),
        {"message": "?"},
    )
    said = [(moment.at_ns, moment.what) for moment in agent_moments(records, "fw-1")]
    assert said == [(1 * MS, "agent: in force"), (2 * MS, "agent: step x done")], (
        "without a time there is no moment"
    )


def connection(number: int, *, stall: tuple[int, int] = (0, 10), ended: str | None = None) -> Connection:
    return Connection(
        number=number,
        messages=1,
        intact=True,
        last_ns=0,
        stall_from_ns=stall[0] * MS,
        stall_ns=(stall[1] - stall[0]) * MS,
        ended=ended,
        ended_ns=500 * MS if ended else 0,
        survived=ended is None,
    )


def figures(resumed_ms: int | None) -> ProbeFigures:
    resumed_ns = None if resumed_ms is None else resumed_ms * MS
    return ProbeFigures(1000, 300, 100, 400, 300 * MS, 99 * MS, resumed_ns, 300 * MS)


def test_the_clients_view() -> None:
    connections = [
        connection(0, stall=(90, 410)),
        connection(1, stall=(90, 405)),
        connection(2, stall=(10, 30)),
    ]
    moments = list(traffic_moments(connections, figures(399), 100 * MS, "client"))
    assert [moment.at_ns // MS for moment in moments] == [99, 399, 405, 410]
    assert moments[-1].what == "2 of 3 connections have resumed", (
        "the third had its longest silence before the fault"
    )


def test_the_clients_view_of_a_disaster() -> None:
    connections = [connection(number, ended="ECONNRESET") for number in range(2)]
    said = [moment.what for moment in traffic_moments(connections, figures(None), 0, "client")]
    assert said == [
        "last answer to the probe before the silence",
        "the first connection breaks (ECONNRESET)",
        "2 of 2 connections are broken",
    ]


def test_times_are_relative_sorted_and_without_repeats() -> None:
    late, early, old = Moment(5_500_000, "b", "y"), Moment(4_000_000, "a", "x"), Moment(1, "a", "old")
    assert relative([late, early, old, late], 5_000_000, before_ms=2) == [
        {"t_ms": -1.0, "node": "a", "what": "x"},
        {"t_ms": 0.5, "node": "b", "what": "y"},
    ]
