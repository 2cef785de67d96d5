# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench rules` measures what it says, on few repetitions; the ratios here are far from the goals, because
this machine may be busy."""

import pytest

from hafw_lab.bench.rules import draw_loads, find_ratios, measure_case, say_ratios
from hafw_lab.spoken import Ink

pytestmark = pytest.mark.netns


def test_loads_are_measured_side_by_side() -> None:
    small = measure_case("load", "10", "0", "1")
    large = measure_case("load", "300", "500", "1")
    assert large["peak_mib"]["nft"] > 1
    assert large["apply_ms"]["nft"] > small["apply_ms"]["nft"] / 10
    assert large["element"]["commands"] < 20, "one address more does not load 500 others again"
    for found in (small, large):
        assert found["flip_ms"]["hafw"] < 10 * found["flip_ms"]["nft"]
    table = draw_loads([small, large], Ink(False))
    assert "300" in table
    assert len(table.splitlines()) == 3


def test_both_rulesets_forward() -> None:
    found = measure_case("forward", "3", "0.1")
    for rates in found["rates"].values():
        assert min(rates) > 0, "the path carries nothing"
    assert 0.3 < found["ratio"] < 3


def test_the_ratios_are_those_of_the_goals() -> None:
    loads = [
        {
            "rules": rules,
            "elements": 0,
            "flip_ms": {"hafw": flip},
            "apply_cpu_ms": {"hafw": 3 * rules, "nft": rules},
            "read_back_cpu_ms": rules / 2,
        }
        for rules, flip in ((10, 0.2), (1_000, 0.25), (10_000, 0.3))
    ]
    loads.append({"rules": 10, "elements": 9, "flip_ms": {"hafw": 0.1}, "element": {"commands": 4}})
    ratios = find_ratios(loads, {"ratio": 0.9})
    assert ratios == pytest.approx(
        {
            "forward": 0.9,
            "flip_10000_to_10": 1.5,
            "apply_1000_to_nft": 3.0,
            "read_back_1000_to_nft": 3.5,
            "flip_ms": 0.3,
            "commands_for_one_element": 4,
        }
    )
    assert len(say_ratios(ratios)) == 6
    assert "flip_10000_to_10" not in find_ratios(loads[:1], {"ratio": 0.9})
