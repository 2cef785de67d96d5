# SPDX-License-Identifier: GPL-2.0-or-later
"""A host for the core to act on: what plans do to gate, rules, kernel and caches."""

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agent.core.actions import (
    Action,
    AwaitStates,
    CommitStates,
    Committed,
    Compared,
    CompareStates,
    FlushCaches,
    LoadRules,
    MarkOwed,
    Outcome,
    Refreshed,
    RefreshStates,
    Reread,
    ResyncKernel,
    SetReadiness,
    SetTimer,
    ShortenTimers,
    StartClean,
    StatesIn,
    SwitchRules,
    Timer,
    VerifyRules,
)
from agent.core.events import ActionDone, ActionFailed, Event, QueryResult, RoleSeen, Started, TimerFired
from agent.core.machine import step
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet
from agent.core.state import ConditionChange, Phase, State
from agent.model.pair import AfterLimit, SyncMode

SECOND = 1_000_000_000
DIRECT = Settings(mode=SyncMode.DIRECT)
CACHE = Settings(mode=SyncMode.CACHE)
CACHE_CLOSED = Settings(mode=SyncMode.CACHE, then=AfterLimit.CLOSED)
GOOD = Committed(10, 10, 0, skipped=False, evidence="log")
SHORT = Committed(10, 4, 6, skipped=False, evidence="log")
NOBODY_ASKED = Compared(reason="the agent of fw-1 is not heard")
WHOLE = Compared(10, rounds=1)
LACKING = Compared(10, rounds=5, touched=6, missing=6)
SKIPPED = Committed(10, 0, 0, skipped=True, evidence="log")


@dataclass
class World:
    """`broken` names the actions (by class name) that fail now; `short` commits bring in too little."""

    settings: Settings
    loaded: RuleSet | None = None
    broken: frozenset[str] = frozenset()
    failed: set[str] = field(default_factory=set)
    """Failed when they were last tried, broken still or not."""
    short: bool = False
    skipped: bool = False
    silent: bool = False
    """Nothing comes from the peer."""
    compared: Compared = NOBODY_ASKED
    """What comes of a comparison."""
    losses: str = ""
    """What the next catch-ups cannot take of what the peer sends."""
    answer: QueryResult = QueryResult.UNREACHABLE
    """What comes of a question that is broken."""
    state: State = field(default_factory=State)
    plan: deque[Action] = field(default_factory=deque)
    timers: set[Timer] = field(default_factory=set)
    changes: list[ConditionChange] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    ready: bool | None = None
    marked: bool = False
    """The next agent will find that a commit is owed."""
    usable: bool = False
    """The states of the peer are in the kernel, or were given up with an alarm since the promotion."""
    now: int = 0

    def start(self) -> None:
        self.usable = self.settings.mode is SyncMode.DIRECT or self.loaded is RuleSet.PRIMARY
        self.handle(Started(self.tick(), self.loaded))

    def tick(self, seconds: float = 0.001) -> int:
        self.now += int(seconds * SECOND)
        return self.now

    def see(self, role: Role) -> None:
        now = self.tick()
        hands = self.state.phase is Phase.HANDING  # it still has the states that it served with
        if role is not Role.PRIMARY and self.settings.mode is SyncMode.CACHE and not hands:
            self.usable = False
        self.handle(RoleSeen(now, role, "test", now))

    def handle(self, event: Event) -> None:
        taken = step(self.settings, self.state, event)
        self.state = taken.state
        self.changes += taken.changes
        self.usable = self.usable or any(not change.ok for change in taken.changes if "gate" in change.text)
        if taken.plan is not None:
            self.plan = deque(taken.plan)

    def work(self, most: int = 100) -> int:
        """Carry out up to `most` actions; returns how many there were."""
        done = 0
        while self.plan and done < most:
            self._carry_out(self.plan.popleft())
            done += 1
        return done

    def cuts(self) -> Iterator["World"]:
        """A world for each place where the plan may be cut: before every action, and at its end."""
        while True:
            yield self.copy()
            if not self.work(1):
                return

    @property
    def future(self) -> str:
        """What all that can come hangs on. Of the log that is the last action."""
        return repr(replace(self, log=self.log[-1:], changes=[]))

    def copy(self) -> "World":
        other = copy.copy(self)
        other.plan, other.timers = self.plan.copy(), self.timers.copy()
        other.changes, other.log = self.changes.copy(), self.log.copy()
        return other

    def run_dry(self) -> None:
        """Everything, with all timers, until nothing but what is regular is left."""
        for _ in range(60):
            self.work()
            due = self.timers - {Timer.REFRESH, Timer.COMPARE}
            if not due and not self.plan:
                return
            for timer in sorted(due, key=lambda timer: timer.value):
                self.timers.discard(timer)
                self.tick(1.0)
                self.handle(TimerFired(self.now, timer))
                self.work()
        raise AssertionError(f"never comes to rest: {self.state}, {self.timers}, {self.log[-12:]}")

    def _carry_out(self, action: Action) -> None:
        name = type(action).__name__
        self.log.append(name if name not in ("LoadRules", "SwitchRules") else f"{name} {_rules(action)}")
        now = self.tick()
        if name in self.broken:
            self.failed.add(name)
            self.handle(ActionFailed(now, action, f"{name} is broken", False, self.answer))
            return
        self.failed.discard(name)
        self.handle(ActionDone(now, action, self._do(action)))

    def _do(self, action: Action) -> Outcome | None:
        match action:
            case LoadRules() | SwitchRules():
                if isinstance(action, SwitchRules):
                    assert self.loaded is not None, "switched rules that were never loaded"
                if action.rules is RuleSet.PRIMARY:
                    assert self.usable, f"the gate opened before the states were usable: {self.log}"
                    unknown = self.state.owed and not self.marked and "MarkOwed" not in self.failed
                    assert not unknown, f"the next agent would not know of the commit: {self.log}"
                    completed = "CompleteExpectations" in self.log[-2:-1]
                    serves = self.state.phase not in (Phase.EXPECTING, Phase.HANDING)
                    assert not serves or completed is self.settings.helpers, (
                        f"expectations were left as they came: {self.log}"
                    )
                self.loaded = action.rules
            case VerifyRules():
                assert action.rules is self.loaded
            case CommitStates():
                late = self.loaded is RuleSet.PRIMARY and self.state.owed and action.late
                assert late or self.loaded is RuleSet.BACKUP, "committed old states over live ones"
                return self._commit()
            case StartClean():
                assert self.loaded is RuleSet.BACKUP, "deleted the states that packets need"
                told = self.ready is False or "SetReadiness" in self.failed
                assert told, "keepalived takes it that the states are here"
            case ShortenTimers():
                assert self.settings.mode is SyncMode.CACHE, "conntrackd -t in direct mode wipes the states"
            case SetReadiness():
                self.ready = action.ready
            case MarkOwed():
                self.marked = action.owed
            case SetTimer():
                self.timers.add(action.timer)
            case CompareStates():
                return self.compared
            case AwaitStates():
                return StatesIn(10, peer_heard=not self.silent, losses=self.losses)
            case RefreshStates():
                return Refreshed(10)
            case ResyncKernel():
                return Reread(10, 10, 10)
            case FlushCaches():
                needed = self.settings.mode is SyncMode.CACHE and self.loaded is not RuleSet.PRIMARY
                assert not needed, "emptied the cache that a takeover needs"
                assert not self.state.owed, "emptied the cache before its states were committed"
            case _:
                pass
        return None

    def _commit(self) -> Committed:
        if self.skipped:
            return Committed(10, 0, 0, skipped=True, evidence="log")
        self.usable = True
        return Committed(10, 4 if self.short else 10, 6 if self.short else 0, skipped=False, evidence="log")


def _rules(action: Action) -> str:
    assert isinstance(action, LoadRules | SwitchRules)
    return action.rules.value
