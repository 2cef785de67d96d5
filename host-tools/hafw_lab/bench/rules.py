# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench rules`: what rules cost to load, to flip and to forward through, beside nft on the same table."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import agent
from hafw_lab.errors import LabError
from hafw_lab.process import ENVIRONMENT
from hafw_lab.progress import Progress
from hafw_lab.report.text import draw_table
from hafw_lab.source_paths import SEARCH_PATH
from hafw_lab.spoken import Ink

CASES = ((10, 0), (1_000, 0), (10_000, 0), (10, 10_000), (10, 100_000))
"""Rules, and elements of a set that one more rule looks into."""
_SLICE_S = 0.05
"""Short and many: other work on the machine then hits both alike."""
_LIMIT_S = 900

Figures = Mapping[str, Any]  # decoded JSON of rules_node.py


def measure(args: argparse.Namespace, ink: Ink, progress: Progress) -> tuple[dict[str, object], str]:
    cases = [case for case in CASES if max(case) <= args.max]
    if not cases:
        raise LabError(f"--max {args.max} leaves out every case", f"write at least {min(map(max, CASES))}")
    loads = []
    for rules, elements in cases:
        progress(f"{rules:,} rules" + (f" and a set of {elements:,}" if elements else ""))
        loads.append(measure_case("load", str(rules), str(elements), str(args.runs)))
    progress(f"{args.slices} turns of forwarding with either ruleset")
    forward = measure_case("forward", str(args.slices), str(_SLICE_S))
    ratios = find_ratios(loads, forward)
    found: dict[str, object] = {"loads": loads, "forward": forward, "ratios": ratios}
    return found, "\n".join((draw_loads(loads, ink), "", *say_ratios(ratios)))


def measure_case(*words: str) -> Figures:
    """One measurement in a network namespace of its own. Raises LabError."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    module = [sys.executable, "-P", "-m", "hafw_lab.bench.rules_node", *words]
    try:
        done = subprocess.run(
            ["unshare", *user, "--net", "--kill-child", "--fork", "--", *module],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            env={**ENVIRONMENT, "PYTHONPATH": f"{Path(agent.__file__).parents[1]}:{SEARCH_PATH}"},
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"the measurement `{' '.join(words)}` took more than {_LIMIT_S} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise LabError(f"the measurement `{' '.join(words)}` failed: {last}")
    found: Figures = json.loads(done.stdout)
    return found


def find_ratios(loads: Sequence[Figures], forward: Figures) -> dict[str, float]:
    """What the goals are about; those whose cases were not measured are not in it."""
    plain = {load["rules"]: load for load in loads if not load["elements"]}
    found: dict[str, float] = {"forward": forward["ratio"]}
    if plain.keys() >= {10, 10_000}:
        found["flip_10000_to_10"] = plain[10_000]["flip_ms"]["hafw"] / plain[10]["flip_ms"]["hafw"]
    if 1_000 in plain:
        ours, nft = (plain[1_000]["apply_cpu_ms"][who] for who in ("hafw", "nft"))
        found["apply_1000_to_nft"] = ours / nft
        found["read_back_1000_to_nft"] = (ours + plain[1_000]["read_back_cpu_ms"]) / nft
    found["flip_ms"] = max(load["flip_ms"]["hafw"] for load in loads)
    changes = [load["element"]["commands"] for load in loads if load["elements"]]
    if changes:
        found["commands_for_one_element"] = max(changes)
    return found


_GOALS = {
    "flip_10000_to_10": "a flip with 10,000 rules takes {:.2f} times that with 10 (goal: 1.5)",
    "flip_ms": "the slowest median of a flip is {:.2f} ms (goal: 2)",
    "apply_1000_to_nft": "1,000 rules are in force after {:.2f} times the work of `nft -f` (goal: 1.5)",
    "read_back_1000_to_nft": "and have been read back after {:.2f} times that (work: processor time)",
    "commands_for_one_element": "one address more in a set of any size is a transaction of {:.0f} commands",
    "forward": "small packets are forwarded at {:.2f} of the rate of a minimal ruleset (goal: 0.97)",
}


def say_ratios(ratios: Mapping[str, float]) -> list[str]:
    return [text.format(ratios[name]) for name, text in _GOALS.items() if name in ratios]


_TIMES = (("apply_ms", 0), ("flip_ms", 2), ("peak_mib", 0))
_HEAD = (
    "rules",
    "set",
    "parse ms",
    "compile",
    "apply",
    "nft -f",
    "read back",
    "flip",
    "nft -f",
    "MiB",
    "nft",
)


def draw_loads(loads: Sequence[Figures], ink: Ink) -> str:
    return draw_table((*_HEAD, "+1 element", "nft"), [_row(load) for load in loads], ink)


def _row(load: Figures) -> list[str]:
    apply, flip, peak = (
        [f"{load[what][who]:.{digits}f}" for who in ("hafw", "nft")] for what, digits in _TIMES
    )
    alone = [f"{load[what]:.0f}" for what in ("parse_ms", "compile_ms", "read_back_ms")]
    element = load.get("element")
    grown = [f"{element[name]:.0f}" for name in ("hafw_ms", "nft_ms")] if element else ["", ""]
    sizes = [f"{load[what]:,}" for what in ("rules", "elements")]
    return [*sizes, *alone[:2], *apply, alone[2], *flip, *peak, *grown]
