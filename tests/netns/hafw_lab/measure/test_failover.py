# SPDX-License-Identifier: GPL-2.0-or-later
"""One real failover in each mode loses nothing; the demo's exit status, result file, and what an end by
force leaves."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.model.pair import SyncMode
from hafw_lab.bench.handover import time_commands
from hafw_lab.errors import LabError
from hafw_lab.measure.failover import run_failover, start_lab
from hafw_lab.measure.result import Setup
from hafw_lab.measure.states import MAX_FILE, room_for_states
from hafw_lab.model.options import AgentKind
from tests.checkout import ROOT
from tests.desktop.virtual_screen import decode
from tests.netns.browser import open_page

pytestmark = pytest.mark.netns
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/host-tools", "PYTHONUNBUFFERED": "1"}
NO_COLOR = re.compile(r"\x1b")


def silent(_: str) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("sync", list(SyncMode))
def test_a_power_loss_loses_nothing(sync: SyncMode) -> None:
    setup = Setup(sync=sync, states=500, connections=20)
    said: list[str] = []
    with start_lab(setup, silent) as lab:
        result = run_failover(lab, setup, said.append)
    assert result.problems == ()
    assert (result.opened, result.survived, result.reset) == (20, 20, 0)
    assert result.nothing_lost
    assert result.lost > 0, "nobody noticed the fault, so nothing was tested"
    assert result.agent.notified_to_open_ms is not None
    if sync is SyncMode.CACHE:
        assert result.agent.commit_ms is not None
        assert result.agent.committed is not None
        assert result.agent.committed >= 520
    times = [float(str(moment["t_ms"])) for moment in result.timeline]
    assert times == sorted(times)
    assert {moment["node"] for moment in result.timeline} == {"client", "fw-1", "fw-2"}
    assert any("MASTER" in str(moment["what"]) for moment in result.timeline)
    assert any("connections flow" in line for line in said)
    json.dumps(result.to_json())


def test_the_measurement_sees_a_disaster() -> None:
    """Debian's script without a filter resets NATed connections; whoever does not see that measures
    nothing."""
    setup = Setup(AgentKind.STOCK, SyncMode.CACHE, states=20_000, connections=20)
    with start_lab(setup, silent) as lab:
        result = run_failover(lab, setup, silent, heal=False)
    assert result.survived < result.opened
    assert result.reset > 0
    assert not result.nothing_lost


def test_commands_are_timed_inside_a_node() -> None:
    setup = Setup(AgentKind.NONE)
    with start_lab(setup, silent) as lab:
        node = lab.node("fw-1")
        slow, fast = time_commands(node, [["/usr/bin/sleep", "0.1"], ["/usr/bin/true"]], 2)
        assert len(slow) == len(fast) == 2
        assert min(slow) > 100 > min(fast)
        with pytest.raises(LabError, match="false ended with status 1"):
            time_commands(node, [["/usr/bin/false"]], 1)


def test_the_kernels_limit_is_put_back() -> None:
    if not os.access(MAX_FILE, os.W_OK) or os.geteuid() != 0:
        pytest.skip("only root can raise nf_conntrack_max")
    before = MAX_FILE.read_text()
    raised: list[int] = []

    def break_off() -> None:
        with room_for_states(int(before), silent):
            raised.append(int(MAX_FILE.read_text()))
            raise LabError("on purpose")

    with pytest.raises(LabError, match="on purpose"):
        break_off()
    assert raised[0] > int(before)
    assert MAX_FILE.read_text() == before


# -- the demo as people start it --


@contextmanager
def demo(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hafw_lab", "demo", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], wanted: str) -> None:
    assert process.stdout
    seen = []
    while select.select([process.stdout], [], [], 30)[0]:
        line = process.stdout.readline()
        seen.append(line)
        if wanted in line:
            return
        if not line:
            break
    pytest.fail(f"the demo did not say {wanted!r} but:\n{''.join(seen)}")


class Traces:
    """Every network namespace in which a descendant of a process has been seen. Other labs may run on this
    machine, so only these count."""

    def __init__(self, pid: int) -> None:
        self._roots = {pid}
        self._namespaces: set[str] = set()
        self._own = os.readlink("/proc/self/ns/net")

    def collect(self) -> None:
        children: dict[int, list[int]] = {}
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(pid)
        waiting = [*self._roots]
        while waiting:
            for pid in children.get(waiting.pop(), ()):
                waiting.append(pid)
                self._roots.add(pid)
                with contextlib.suppress(OSError):
                    self._namespaces.add(os.readlink(f"/proc/{pid}/ns/net"))
        self._namespaces.discard(self._own)

    def find(self) -> set[str]:
        """The processes that still live in one of them."""
        self.collect()
        found = set()
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/net") in self._namespaces:
                    found.add(f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}")
        return found


@dataclass(frozen=True, slots=True)
class RanDemo:
    status: int
    out: str
    err: str
    json: Path
    report: Path


@pytest.fixture(scope="module")
def ran_demo(tmp_path_factory: pytest.TempPathFactory) -> RanDemo:
    place = tmp_path_factory.mktemp("demo")
    target, report = place / "result.json", place / "report"
    with demo("--states", "100", "--json", str(target), "--report", str(report)) as process:
        out, err = process.communicate(timeout=180)
    return RanDemo(process.returncode, out, err, target, report)


def test_the_demo_shows_and_writes_what_happened(ran_demo: RanDemo) -> None:
    assert ran_demo.status == 0, ran_demo.out + ran_demo.err
    assert "50 of 50 connections survived" in ran_demo.out
    assert re.search(r"^ +0\.0 +\| +X +\| +power off", ran_demo.out, re.MULTILINE)
    assert not NO_COLOR.search(ran_demo.out)
    result = json.loads(ran_demo.json.read_text())
    assert result["connections"]["survived"] == 50
    assert result["setup"]["states"] == 100


OVERLAPS = """
[...document.querySelectorAll('svg')].flatMap(svg => {
    const texts = [...svg.querySelectorAll('text')]
    const boxes = texts.map(one => [one.textContent, one.getBoundingClientRect()])
    const paper = svg.getBoundingClientRect()
    const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top
    const within = a => a.left >= paper.left && a.right <= paper.right
    return boxes.flatMap(([text, box], at) => [
        ...boxes.slice(at + 1).filter(other => !apart(box, other[1])).map(other => [text, other[0]]),
        ...(within(box) ? [] : [[text, 'the edge']])])})
"""
KINDS = """
['answered', 'lost', 'primary', 'failed', 'backup'].map(
    kind => document.querySelectorAll(`.failover .${kind}`).length)
"""


def test_a_browser_shows_the_report(ran_demo: RanDemo, tmp_path: Path) -> None:
    with open_page(ran_demo.report / "index.html", tmp_path) as page:
        assert page.find_requests() == [(ran_demo.report / "index.html").as_uri()]
        assert page.find_complaints() == []
        assert page.evaluate(OVERLAPS) == []
        answered, lost, primary, failed, backup = page.evaluate(KINDS)
        assert answered > 10
        assert lost > 3
        assert (primary, failed, backup) == (2, 1, 1)
        points = page.evaluate("document.querySelector('.rate').points.length")
        assert points > 5
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        colors = {color for _, color in decode(page.take_picture()).getcolors(1 << 24)}
    assert {(0x21, 0x8B, 0xFF), (0xCF, 0x22, 0x2E), (0xAC, 0xEE, 0xBB)} <= colors


def test_a_browser_shows_the_picture_of_the_readme(tmp_path: Path) -> None:
    picture = ROOT / "docs" / "pictures" / "failover.svg"
    with open_page(picture, tmp_path) as page:
        assert page.find_requests() == [picture.as_uri()]
        assert page.find_complaints() == []
        assert page.evaluate(OVERLAPS) == []
        assert page.evaluate("document.querySelectorAll('.lost').length") > 10


def test_the_demo_fails_when_connections_are_lost() -> None:
    with demo("--agent", "none", "--sync", "cache", "--states", "0") as process:
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "connections survived" in out


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "bridges"),
        (signal.SIGTERM, "connections flow"),
        (signal.SIGKILL, "connections flow"),
        (signal.SIGINT, "power of"),
    ],
)
def test_an_end_by_force_leaves_nothing(number: signal.Signals, moment: str) -> None:
    with demo("--states", "100") as process:
        read_until(process, moment)
        traces = Traces(process.pid)
        assert traces.find(), "there is no lab, so this test shows nothing"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode != 0
        assert "Traceback" not in err
    for _ in range(200):
        if not traces.find():
            return
        select.select(
            [], [], [], 0.05
        )  # the kernel takes namespaces apart in its own time and gives no notice
    pytest.fail(f"the demo left {', '.join(sorted(traces.find()))}")
