# SPDX-License-Identifier: GPL-2.0-or-later
"""What can happen to the machine, by name, and worlds in the middle of something."""

from collections.abc import Callable

from agent.core.actions import Timer
from agent.core.events import (
    ConntrackdAsked,
    ConntrackdStarted,
    Event,
    HandoverAnnounced,
    HandoverBegun,
    HandoverEnded,
    QueryResult,
    Reloaded,
    RulesChanged,
    SplitEnded,
    StatesCounted,
    TimerFired,
)
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.model.pair import SyncMode
from tests.unit.agent.core.world import CACHE, CACHE_CLOSED, DIRECT, World

REPORT = Settings(mode=SyncMode.CACHE, repair=False, helpers=True)
PREEMPT = Settings(helpers=True, preempt=True)
ALL = {
    "direct": DIRECT,
    "cache": CACHE,
    "cache-closed": CACHE_CLOSED,
    "report": REPORT,
    "preempt": PREEMPT,
}

ACTIONS = (
    "LoadRules",
    "SwitchRules",
    "VerifyRules",
    "CompleteExpectations",
    "CompleteRemaining",
    "CommitStates",
    "FlushCaches",
    "ResyncKernel",
    "SendBulk",
    "StartClean",
    "CompareStates",
    "RequestResync",
    "AwaitStates",
    "ShortenTimers",
    "SetReadiness",
    "SetStanding",
    "MarkOwed",
)

EVENTS: dict[str, object] = {
    "primary": Role.PRIMARY,
    "backup": Role.BACKUP,
    "fault": Role.FAULT,
    "stopped": Role.STOPPED,
    "drift": RulesChanged,
    "reload": Reloaded,
    "conntrackd-lost": ConntrackdAsked,
    "conntrackd-started": ConntrackdStarted,
    "conntrackd-answers": ConntrackdAsked,
    "states-lost": StatesCounted,
    "split-ended": SplitEnded,
    "announced": HandoverAnnounced,
    "begun": HandoverBegun,
    "ended": HandoverEnded,
    "handover": Timer.HANDOVER,
    "settle": Timer.SETTLE,
    "refresh": Timer.REFRESH,
    "retry": Timer.RETRY,
    "compare": Timer.COMPARE,
}


def make_world(name: str, loaded: RuleSet | None = None) -> World:
    world = World(ALL[name], loaded=loaded)
    world.start()
    return world


def happen(world: World, name: str) -> None:
    what = EVENTS[name]
    if isinstance(what, Role):
        world.see(what)
    elif isinstance(what, Timer):
        world.timers.discard(what)
        world.handle(TimerFired(world.tick(), what))
    else:
        world.handle(_simple(name, world.tick()))


def _simple(name: str, now: int) -> Event:
    if name == "drift":
        return RulesChanged(now, "table inet hafw is gone")
    if name == "reload":
        return Reloaded(now)
    if name == "states-lost":
        return StatesCounted(now, kernel=60_000, cached=10)
    if name == "split-ended":
        return SplitEnded(now, "both nodes were primary")
    if name == "conntrackd-lost":
        return ConntrackdAsked(now, QueryResult.UNREACHABLE, "cannot connect")
    if name == "conntrackd-answers":
        return ConntrackdAsked(now, QueryResult.OK)
    if name in OF_HANDOVER:
        return OF_HANDOVER[name](now)
    return ConntrackdStarted(now)


OF_HANDOVER: dict[str, Callable[[int], Event]] = {
    "announced": HandoverAnnounced,
    "begun": HandoverBegun,
    "ended": HandoverEnded,
}


def expecting(*, work: bool = True) -> World:
    """A backup to which the primary hands over."""
    world = make_world("direct")
    world.see(Role.BACKUP)
    world.run_dry()
    world.log.clear()
    happen(world, "announced")
    if work:
        world.work()
    return world


def handing(name: str = "direct") -> World:
    world = make_world(name)
    world.see(Role.PRIMARY)
    world.run_dry()
    world.log.clear()
    happen(world, "begun")
    world.work()
    return world
