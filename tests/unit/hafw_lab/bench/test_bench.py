# SPDX-License-Identifier: GPL-2.0-or-later
"""The arithmetic and the tables of demo and bench, on made-up results."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from pathlib import Path

import pytest

from agent.model.pair import SyncMode
from hafw_lab.arguments.common import check_writable
from hafw_lab.bench import main
from hafw_lab.bench.facts import read_facts
from hafw_lab.bench.failover import compare, make_rows, plan_setups, say_duration
from hafw_lab.bench.handover import make_row
from hafw_lab.bench.hook import parse_cpu_ticks, parse_resident_kib
from hafw_lab.errors import LabError
from hafw_lab.measure.result import FailoverResult, Setup, detection_bound_ms, find_doubts
from hafw_lab.measure.states import parse_cache_size, state_lines
from hafw_lab.measure.timeline import AgentFigures
from hafw_lab.model.options import AgentKind
from hafw_lab.report.text import (
    draw_table,
    draw_timeline,
    percentile,
    say_spread,
    say_verdict,
)
from hafw_lab.spoken import Ink, choose_ink
from hafw_lab.traffic.figures import ProbeFigures
from hafw_lab.verbs import demo
from tests.unit.hafw_lab.report.made_result import RESULT, TIMELINE

PLAIN = Ink(False)


def test_the_promised_json_has_these_keys_and_no_others() -> None:
    assert json.loads(json.dumps(RESULT.to_json())) == {
        "setup": {
            "agent": "hafw",
            "sync": "direct",
            "nat": True,
            "states": 0,
            "advert_interval_ms": 100,
            "fault": "power",
        },
        "detection_bound_ms": 345.312,
        "connections": {"opened": 50, "survived": 50, "reset": 0, "longest_stall_ms": 352.0},
        "probe": {"rate_hz": 1000, "lost": 340, "blackout_ms": 341.25},
        "agent": {"notified_to_open_ms": 3.2, "commit_ms": None, "expected": None, "committed": None},
        "timeline": list(TIMELINE),
    }


def test_vrrps_bound() -> None:
    assert detection_bound_ms(100, 140) == 345.3125
    assert detection_bound_ms(1000, 254) == pytest.approx(3007.8, abs=0.1)


def test_what_counts_as_nothing_lost() -> None:
    assert RESULT.nothing_lost
    assert not replace(RESULT, survived=49).nothing_lost
    assert not replace(RESULT, opened=49, survived=49).nothing_lost, "one did not even come up"
    assert not replace(RESULT, probe_resumed=False).nothing_lost


def test_the_verdict() -> None:
    assert say_verdict(RESULT) == (
        "50 of 50 connections survived; the client saw 341 ms of silence (345 ms is the longest that"
        " detection may take); the agent's own part was 3.2 ms."
    )
    bad = replace(RESULT, survived=3, reset=47, probe_resumed=False, problems=("fw-2 is not alone",))
    text = say_verdict(bad)
    assert text.startswith("3 of 50 connections survived; 47 were reset; the probe was never answered again")
    assert "fw-2 is not alone" in text


def test_doubts_about_the_measuring_itself() -> None:
    probe = ProbeFigures(1000, 0, None, None, 341_000_000, 0, 1, 340_000_000)
    assert find_doubts(probe, 1_000_000) == ()
    assert "too busy" in find_doubts(probe, 60_000_000)[0]
    assert "sending clock" in find_doubts(replace(probe, silence_ns=100_000_000), 0)[0]


def test_the_picture_has_a_lane_for_each_node() -> None:
    lines = draw_timeline(TIMELINE, ("client", "fw-1", "fw-2"), "fw-1", PLAIN).splitlines()
    lanes = [line[11:35].replace(" ", ".") for line in lines]
    assert lanes == [
        ".client...fw-1....fw-2..",
        "...|.......X.......|....",
        "...*...............|....",
        "...|.......*.......|....",
        "...|.......|.......*....",
    ], "\n".join(lanes)
    assert lines[2].startswith("    341.2  ")
    assert lines[2].endswith("answered again")


def test_a_picture_with_colors_has_the_same_characters() -> None:
    colored = draw_timeline(TIMELINE, ("client", "fw-1", "fw-2"), "fw-1", Ink(True))
    plain = draw_timeline(TIMELINE, ("client", "fw-1", "fw-2"), "fw-1", PLAIN)
    for code in ("0", "1", "2", "31", "32"):
        colored = colored.replace(f"\x1b[{code}m", "")
    assert colored == plain


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_colors_only_on_a_terminal_and_not_against_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert choose_ink(Terminal()).colors
    assert not choose_ink(StringIO()).colors
    monkeypatch.setenv("NO_COLOR", "1")
    assert not choose_ink(Terminal()).colors


def test_spreads() -> None:
    assert say_spread([]) == "-"
    assert say_spread([None, None]) == "-"
    assert say_spread([341.4]) == "341"
    assert say_spread([350, 338, 341]) == "341 (338..350)"
    assert say_spread([1.25, None], digits=1) == "1.2, 1 without"


def test_percentiles() -> None:
    assert percentile([5], 0.95) == 5
    assert percentile(range(1, 101), 0.95) == 95
    assert percentile(range(1, 21), 0.95) == 19
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([1, 2], 1.0) == 2


def test_a_table_is_aligned() -> None:
    assert draw_table(("name", "ms"), [["a", "1000"], ["long name", "1"]], PLAIN).splitlines() == [
        "name         ms",
        "a          1000",
        "long name     1",
    ]


def test_a_row_of_times() -> None:
    assert make_row("x", [1.0, 2.0, 9.0]) == ["x", "3", "2.0", "9.0", "1.0", "9.0"]


def test_agents_take_turns_within_one_size_and_mode() -> None:
    kinds = (AgentKind.HAFW, AgentKind.STOCK)
    setups = list(plan_setups(kinds, (SyncMode.DIRECT,), (0, 5), 2, advert_interval_ms=100))
    assert [(setup.agent.value, setup.states) for setup in setups[:5]] == [
        ("hafw", 0),
        ("stock", 0),
        ("hafw", 0),
        ("stock", 0),
        ("hafw", 5),
    ]
    assert len(setups) == 8


def run_of(
    states: int, blackout_ms: float, sync: SyncMode = SyncMode.DIRECT, **changes: object
) -> FailoverResult:
    setup = Setup(sync=sync, states=states)
    return replace(RESULT, setup=setup, blackout_ms=blackout_ms, **changes)  # type: ignore[arg-type] # by name, as given


def test_rows_are_medians_of_the_runs_of_one_setup() -> None:
    runs = [run_of(0, 300), run_of(9, 1), run_of(0, 320), run_of(0, 310, survived=48, reset=2)]
    assert [row[:7] for row in make_rows(runs)] == [
        ["hafw", "direct", "0", "48..50 of 50", "0..2", "352 (352..352)", "310 (300..320)"],
        ["hafw", "direct", "9", "50 of 50", "0", "352", "1"],
    ]


def text_of(results: Sequence[FailoverResult]) -> str:
    return "\n".join(compare(results))


def test_the_goals_are_compared_with_the_figures() -> None:
    cached = AgentFigures(notified_to_open_ms=105, commit_ms=100)
    text = text_of([run_of(0, 300), run_of(300_000, 330), run_of(0, 400, SyncMode.CACHE, agent=cached)])
    assert "in 0 of 3 runs" in text
    assert "direct, 300,000 states: median silence 330 ms (goal: 375 ms)" in text
    assert "direct, 300,000 states against 0: 1.10 times" in text
    assert "within 1.05 of the commit's time" in text
    assert "in 1 of 1 runs" in text_of([run_of(0, 300, survived=49)])


def test_only_our_own_runs_have_goals() -> None:
    assert compare([replace(RESULT, setup=Setup(AgentKind.STOCK))]) == []


def test_durations() -> None:
    assert say_duration(42.4) == "42 seconds"
    assert say_duration(600) == "10 minutes"


def parser_of(module: object) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)  # type: ignore[attr-defined] # the two modules have it
    return parser


def test_the_arguments_of_the_demo() -> None:
    args = parser_of(demo).parse_args([])
    assert (args.agent, args.sync, args.advert, args.json) == ("hafw", "direct", None, None)
    args = parser_of(demo).parse_args(["--advert", "1s", "--states", "300000", "--sync", "cache"])
    assert (args.advert, args.states) == (1000, 300_000)


def test_the_arguments_of_the_bench() -> None:
    args = parser_of(main).parse_args(["failover"])
    assert args.agents == (AgentKind.HAFW, AgentKind.STOCK, AgentKind.STOCK_DROP)
    assert args.states == (0, 20_000, 300_000)
    assert args.sync == (SyncMode.DIRECT, SyncMode.CACHE)
    for measure in ("handover", "flap", "hook"):
        assert callable(parser_of(main).parse_args([measure]).bench)


@pytest.mark.parametrize(
    "words",
    [
        ["failover", "--agents", "hafw,stok"],
        ["failover", "--sync", ""],
        ["failover", "--states", "1,-2"],
        ["failover", "--advert", "fast"],
        ["handover", "--count", "1e3"],
        ["rejoin", "--methods", "stock"],
        ["rejoin", "--states", "0"],
        [],
    ],
)
def test_bad_arguments_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser_of(main).parse_args(words)
    assert end.value.code == 2
    assert capsys.readouterr().err


def test_a_result_file_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "result.json")
    with pytest.raises(LabError, match="cannot write to"):
        check_writable(tmp_path / "missing" / "result.json")


CLIENTS, SERVERS = IPv4Network("192.168.2.0/24"), IPv4Network("192.168.0.0/24")


def test_no_two_states_are_alike_not_even_after_translation() -> None:
    lines = list(islice(state_lines(CLIENTS, SERVERS, IPv4Address("192.168.0.100")), 200_000))
    assert len(set(lines)) == len(lines)
    words = [line.split() for line in lines]
    translated = {(word[word.index("-d") + 1], word[word.index("--src-nat") + 1]) for word in words}
    assert len(translated) == len(lines)


def test_states_without_nat() -> None:
    assert "nat" not in next(state_lines(CLIENTS, SERVERS, None))


def test_the_size_of_a_cache() -> None:
    text = (
        "cache:internal\tactive objects:\t\t        1000\n\tactive/total entries:\t\t 1000/ 1000\n\n"
        "cache:external\tactive objects:\t\t          50\n\tactive/total entries:\t\t 50/ 50\n"
    )
    assert (parse_cache_size(text, "internal"), parse_cache_size(text, "external")) == (1000, 50)
    assert parse_cache_size("", "external") is None
    assert parse_cache_size(text.partition("\n\n")[0], "external") is None


def test_proc_is_read_right() -> None:
    stat = "6 (py thon) x) S 1 6 6 0 -1 4194560 5000 0 0 0 123 45 6 7 20 0 1 0 100 1000 200"
    assert parse_cpu_ticks(stat) == 168
    assert parse_resident_kib("Name:\tx\nVmHWM:\t 9 kB\nVmRSS:\t   35636 kB\nThreads:\t1\n") == 35636
    with pytest.raises(LabError):
        parse_resident_kib("Name: x\n")


def test_the_machines_facts_can_be_written_as_json() -> None:
    facts = read_facts()
    assert json.loads(json.dumps(facts))["cpus"]
    assert facts["kernel"]


BENCHES = (
    "failover --runs",
    "handover --count",
    "hook --count",
    "rules --runs",
    "rules --slices",
    "flap --rate",
    "rejoin --limit",
)


@pytest.mark.parametrize("words", [*BENCHES, "flap --seconds", "rules --max", "rules --most"])
@pytest.mark.parametrize("text", ["0", "x", "-1", "", "1" * 9])
def test_nothing_is_not_measured(words: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    parser.parse_args([*words.split(), "1"])
    with pytest.raises(SystemExit):
        parser.parse_args([*words.split()[:1], f"{words.split()[1]}={text}"])
    assert f"{text!r} is not a whole number from 1 to 99999999" in capsys.readouterr().err
