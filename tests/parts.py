# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the tests, one for each directory: which of them run, and how long each took."""

import time
from collections import defaultdict
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

HERE = Path(__file__).parent
PARTS = ("static", "unit", "netns", "package", "vm", "desktop")
"""Each costs more than the one before: what fails in seconds fails first."""


def part_of(path: Path) -> str:
    return path.relative_to(HERE).parts[0]


def find_unknown(named: list[str]) -> str | None:
    """What is wrong with the parts that were asked for."""
    unknown = [name for name in named if name not in PARTS]
    return (
        f"no part of the tests is called {unknown[0]!r}; the parts are {', '.join(PARTS)}"
        if unknown
        else None
    )


class PartTimes:
    """Of the reports of the tests, so that it holds for tests in other processes as well.

    The time of a part is from the start of its first test to the end of its last, by the clock on the wall:
    with several processes the seconds of the tests add up to more.
    """

    def __init__(self) -> None:
        self._tests: dict[str, set[str]] = defaultdict(set)
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._began.setdefault(self._part_of(nodeid), time.monotonic())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        part = self._part_of(report.nodeid)
        self._tests[part].add(report.nodeid)
        self._ended[part] = time.monotonic()

    def _part_of(self, nodeid: str) -> str:
        return part_of(HERE.parent / nodeid.partition("::")[0])

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        if not self._tests:
            return
        terminalreporter.section("time of each part")
        for part in PARTS:
            if part in self._tests:
                took = self._ended[part] - self._began[part]
                terminalreporter.line(f"{part:<8} {len(self._tests[part]):>5} tests {took:>8.1f} s")
