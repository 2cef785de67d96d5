# SPDX-License-Identifier: GPL-2.0-or-later
"""What `bench rejoin` makes of its figures; the measuring itself is tried in tests/netns/hafw_lab/bench."""

import argparse
import json
from dataclasses import replace

from hafw_lab.bench import main
from hafw_lab.bench.rejoin import Method, Rejoin, say_goals, say_rejoin
from hafw_lab.measure.tables import split_tuples

WHOLE = Rejoin(Method.HAFW, 300_000, 6.0004, 300_000, 50, 50)
TORN = Rejoin(Method.CONNTRACKD, 300_000, None, 119_000, 50, 21)


def test_the_promised_json_has_these_keys_and_no_others() -> None:
    assert json.loads(json.dumps([WHOLE.to_json(), TORN.to_json()])) == [
        {
            "method": "hafw",
            "states": 300_000,
            "whole_s": 6.0,
            "present": 300_000,
            "second": {"opened": 50, "survived": 50},
        },
        {
            "method": "conntrackd",
            "states": 300_000,
            "whole_s": None,
            "present": 119_000,
            "second": {"opened": 50, "survived": 21},
        },
    ]


def test_a_run_in_words() -> None:
    assert say_rejoin(WHOLE, 180).startswith("whole after 6.0 s, 300,000 of 300,000 states; 50 of 50 ")
    assert say_rejoin(TORN, 180).startswith("not whole within 180 s, 119,000 of 300,000 states; 21 of 50 ")


def test_goals_are_those_of_our_own_runs() -> None:
    assert say_goals([TORN]) == []
    text = "\n".join(say_goals([WHOLE, replace(WHOLE, survived=49), replace(WHOLE, present=299_999), TORN]))
    assert "in 1 of 3 runs (goal: all)" in text
    assert "hafw, 300,000 states: whole after 6.0 s (goal: 10 s)" in text


def test_the_arguments() -> None:
    parser = argparse.ArgumentParser()
    main.add_arguments(parser)
    args = parser.parse_args(["rejoin"])
    assert args.methods == (Method.HAFW, Method.CONNTRACKD)
    assert (args.states, args.limit) == ((20_000, 300_000, 1_000_000), 180)
    args = parser.parse_args(["rejoin", "--methods", "conntrackd", "--states", "5,6"])
    assert (args.methods, args.states) == ((Method.CONNTRACKD,), (5, 6))


def test_tuples_of_different_lengths() -> None:
    short, long = bytes((4, 0, 1, 0)), bytes((8, 0, 1, 0, 9, 9, 9, 9))
    assert split_tuples(short + long + short) == {short, long}
    assert split_tuples(b"") == frozenset()
