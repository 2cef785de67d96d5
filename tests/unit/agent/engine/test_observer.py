# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes from outside, on its way to the loop."""

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from agent.adapters.conntrackd import Conntrackd
from agent.adapters.process import run
from agent.config import loader
from agent.core.conditions import Condition
from agent.core.events import ConditionSeen
from agent.core.plan import Settings
from agent.core.roles import Role
from agent.engine.commit_mark import CommitMark
from agent.engine.drift import DriftCheck
from agent.engine.executor import Executor
from agent.engine.loop import Loop
from agent.engine.observer import Observer
from agent.engine.readiness import Readiness
from agent.engine.refusals import Refusals
from agent.paths import Paths
from tests.checkout import EXAMPLES
from tests.fakes import FakeHost, MemorySink

pytestmark = pytest.mark.root(reason="the kernel reports changed rules to root only")

PAIR = loader.load(EXAMPLES / "pair.yaml")


class Bench:
    def __init__(self, tmp_path: Path, conntrackd_tool: Path = Path("/bin/false")) -> None:
        self.paths = Paths(
            run_dir=tmp_path,
            vrrp_pid=tmp_path / "vrrp.pid",
            system_bus=tmp_path / "no-bus",
            conntrackd=conntrackd_tool,
            conntrackd_socket=tmp_path / "conntrackd.ctl",
        )
        self.sink = MemorySink()
        host = FakeHost()
        executor = Executor(
            host,
            host,
            Readiness(self.paths.readiness, -100),
            CommitMark(self.paths.commit_owed),
            host.complete,
        )
        self.loop = Loop(Settings(), executor, self.sink.write)
        conntrackd = Conntrackd(self.paths, PAIR.sync.mode, run, expectations=False)
        drift = DriftCheck(self.loop, executor)
        refuse = Refusals(self.sink.write).refuse
        self.observer = Observer(PAIR, self.paths, conntrackd, self.loop, drift, refuse)
        self.observer.notices.listen(tmp_path / "notify.sock")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    shutil.copy("/bin/sleep", tmp_path / "keepalived")
    return tmp_path / "keepalived"


def start(program: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([program, "60"])
    # the kernel gives it its name a moment after Popen knows that it runs
    while Path(f"/proc/{process.pid}/comm").read_text().strip() != program.name:
        os.sched_yield()
    return process


def test_the_death_of_a_second_keepalived_is_noticed_at_once(tmp_path: Path, program: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        observer = bench.observer
        first = start(program)
        bench.paths.vrrp_pid.write_text(f"{first.pid}\n")
        observer.hint("test")
        second = start(program)
        bench.paths.vrrp_pid.write_text(f"{second.pid}\n")
        first.kill()
        first.wait()
        # another source is quicker than the descriptor of the first one
        observer.hint("netlink")
        assert observer.seen is not None
        assert observer.seen.facts.alive
        second.kill()
        second.wait()
        deadline = time.monotonic() + 2
        while observer.seen.facts.alive:
            assert time.monotonic() < deadline, "the death went unnoticed"
            await asyncio.sleep(0)
        observer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("heard_between", [True, False])
def test_only_what_was_so_all_the_time_between_two_polls_counts(tmp_path: Path, heard_between: bool) -> None:
    """At the first poll keepalived was only starting; then it was there; at the second the bus had died."""

    async def scenario() -> None:
        bench = Bench(tmp_path)
        observer = bench.observer
        observer.process.is_alive = lambda bus_pid=None: True  # type: ignore[method-assign]
        observer.hint("start")
        observer._look_for_contradictions()
        if heard_between:
            observer.bus._know(":1.7", "")
            observer._bus_changed()
            observer.bus._know("", "")
        observer._look_for_contradictions()
        observer.close()
        found = [one for one in bench.loop._queue if isinstance(one, ConditionSeen) and not one.ok]
        assert [one.condition for one in found] == ([] if heard_between else [Condition.BUS])

    asyncio.run(scenario())


def test_what_comes_after_the_end_is_let_go(tmp_path: Path) -> None:
    """The bus may say that it has gone when everything else is closed already."""

    async def scenario() -> None:
        bench = Bench(tmp_path)
        bench.observer.close()
        bench.observer.hint("bus")
        assert bench.observer.seen is None

    asyncio.run(scenario())


@pytest.mark.parametrize("left_open", [True, False])
def test_a_primary_that_lacks_an_address_stays_one_over_a_restart(tmp_path: Path, left_open: bool) -> None:
    """At the first look neither bus nor hook have said anything."""

    async def scenario() -> None:
        bench = Bench(tmp_path)
        bench.observer.was_primary = left_open
        one = next(iter(bench.observer._wanted))
        bench.observer.addresses.held = lambda: frozenset({one})  # type: ignore[method-assign]
        bench.observer.process.is_alive = lambda bus_pid=None: True  # type: ignore[method-assign]
        bench.observer.hint("start")
        bench.observer.close()
        assert bench.observer.seen is not None
        assert bench.observer.seen.role is (Role.PRIMARY if left_open else Role.BACKUP)

    asyncio.run(scenario())
