"""One queue in, one plan at work. Carries events to the core and the core's plans to the hands; no policy.

Changes of rules are made within the loop's turn, so nothing comes between the decision and the gate. What is
asked of conntrackd, and every look at the rules, runs beside the loop, one action at a time; when a newer
plan arrives, an abandonable one is no longer waited for, any other is let finish first.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from agent.adapters.journal import Sink
from agent.core.actions import (
    Action,
    Asked,
    AtOnce,
    AwaitStates,
    CommitStates,
    Committed,
    Completed,
    LoadRules,
    Outcome,
    Plan,
    Reread,
    SendBulk,
    SetTimer,
    StatesIn,
    SwitchRules,
    Timer,
)
from agent.core.conditions import Condition, doubt
from agent.core.events import (
    ActionDone,
    ActionFailed,
    Answer,
    ConditionSeen,
    Event,
    RoleSeen,
    RulesChanged,
    TimerFired,
)
from agent.core.machine import Step, step
from agent.core.plan import Settings
from agent.core.roles import Role, rules_of
from agent.core.state import Notice, State
from agent.engine.executor import Hands
from agent.engine.pulse import Pulse
from agent.errors import (
    HafwError,
    MissingToolError,
    OvertakenError,
    SilentError,
    ToolError,
    UnavailableError,
)
from agent.model.records import Kind, Record
from agent.rules.holes import Change, holes, sentence


@dataclass(slots=True)
class Transition:
    """What is told about the way from one role to another, until its rules are in force."""

    identity: str
    seen: RoleSeen
    before: Role
    steps: list[Record] = field(default_factory=list)
    closed: Record | None = None
    committed: Committed | None = None
    doubt: str | None = None
    """Why states may be missing, as far as that was known when the role came."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Goes through the queue like an event."""

    answer: Callable[[], None]


class Loop:
    def __init__(self, settings: Settings, hands: Hands, sink: Sink) -> None:
        self.settings = settings
        self.state = State()
        self.role_since_ns = time.monotonic_ns()
        self.transition: Transition | None = None
        self._hands = hands
        self._sink = sink
        self.on_change: Callable[[State], None] = lambda _state: None
        """Called with every state that differs from the one before; must return at once."""
        self._queue: asyncio.Queue[Event | Beat] = asyncio.Queue()
        self._plan: deque[Action] = deque()
        self._running: asyncio.Task[None] | None = None
        self._running_action: Action | None = None
        self._running_until = 0.0
        self._group: asyncio.TaskGroup | None = None
        self.pulse = Pulse(self._stood_still)
        self._checking = False
        self._check_again = False
        self._timers: dict[Timer, asyncio.TimerHandle] = {}

    def post(self, event: Event) -> None:
        """Callable from anything on the event loop; never waits."""
        self._queue.put_nowait(event)

    def beat(self, answer: Callable[[], None]) -> None:
        """`answer` is called when all that was posted before has been met."""
        self._queue.put_nowait(Beat(answer))

    def overdue(self) -> str | None:
        """Which step takes longer than any step may, because something of ours hangs."""
        if self._running_action is None or time.monotonic() < self._running_until:
            return None
        return self._running_action.describe()

    async def run(self) -> None:
        """For ever; cancel to end. Nothing in the kernel changes at the end."""
        self.pulse.start()
        try:
            async with asyncio.TaskGroup() as self._group:
                try:
                    await self._meet_all()
                finally:
                    self._group = None  # takes no more tasks
        finally:
            self.pulse.stop()
            for timer in self._timers.values():
                timer.cancel()

    async def _meet_all(self) -> None:
        while True:
            item = await self._queue.get()
            if isinstance(item, Beat):
                item.answer()
            else:
                self.meet(item)

    @property
    def is_idle(self) -> bool:
        """Nothing waits to be met, done or asked, and no settling is to come."""
        waiting = Timer.SETTLE in self._timers or Timer.RETRY in self._timers
        return self._queue.empty() and not self._plan and self._running is None and not waiting

    def meet(self, event: Event) -> None:
        """One event, and all that can be done at once because of it."""
        before = self.state
        taken = step(self.settings, before, event)
        self.state = taken.state
        if isinstance(event, RoleSeen) and event.role is not before.role:
            self._begin_transition(event, before.role, before.problems)
        self._tell(taken)
        if taken.state != before:
            self.on_change(taken.state)
        if taken.plan is not None:
            self._replace_plan(taken.plan)
        self._work()

    def check_rules(self) -> None:
        """Compare the kernel with what was loaded, beside the loop; called when some rule somewhere changed.
        However often, one look is under way and one may wait."""
        if self._group is None or self._checking:
            self._check_again = self._checking
            return
        self._checking = True
        self._group.create_task(self._check_until_still())

    def rules_may_be_open(self, changes: Collection[Change]) -> None:
        """What another program has opened is closed within this turn, and then the rules come back, also
        where the pair file says that changes are only reported."""
        loaded = self.state.loaded
        if loaded is None:
            return
        opening = [(change, opened) for change in changes if (opened := holes(change, loaded))]
        if not opening:
            return
        try:
            closed = self._hands.close({hole for _, opened in opening for hole in opened})
        except HafwError:
            return  # the look that follows every change says what is wrong
        if closed:
            self.post(RulesChanged(time.monotonic_ns(), sentence(opening, closed)))

    async def _check_until_still(self) -> None:
        """Who changes rules without end gets a part of our time: a look at a large table takes long."""
        try:
            while True:
                self._check_again = False
                begun = time.monotonic()
                await self._check_rules()
                if not self._check_again:
                    return
                await asyncio.sleep(REST * (time.monotonic() - begun))
        finally:
            self._checking = False

    async def _check_rules(self) -> None:
        loaded = self.state.loaded
        if loaded is None or not self.state.whole:
            return
        try:
            drift = await self._hands.find_drift(loaded)
        except OvertakenError:
            return  # the kernel tells of our own change as well, and that is looked at next
        except HafwError as error:
            drift = str(error)
        if self.state.loaded is not loaded:  # before the look had its turn, so that it knew of no change
            self._check_again = True
            return
        now = time.monotonic_ns()
        if not self.settings.mend:
            text = f"{drift}; left as it is, as the pair file says" if drift else "the rules are ours again"
            self.post(ConditionSeen(now, Condition.RULES, drift is None, text))
        elif drift is not None:
            self.post(RulesChanged(now, drift))

    def record(self, record: Record) -> None:
        self._sink.write(record)

    def _replace_plan(self, plan: Plan) -> None:
        self._plan = deque(plan)
        if self._running_action is not None and self._running_action.abandonable:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = self._running_action = None

    def _work(self) -> None:
        """Do what is next, until something has to be waited for."""
        while self._running is None and self._plan:
            action = self._plan.popleft()
            if isinstance(action, SetTimer):
                self._set_timer(action)
            elif isinstance(action, AtOnce):
                self._do(action)
                return
            else:
                self._ask_for(action)

    def _do(self, action: AtOnce) -> None:
        begun = time.monotonic_ns()
        try:
            outcome = self._hands.do(action)
        except HafwError as error:
            self._finished(action, begun, self.transition, error=error)
        else:
            self._finished(action, begun, self.transition, outcome=outcome)

    def _ask_for(self, action: Asked) -> None:
        if self._group is None:
            raise AssertionError("run() comes first")
        self._running_action = action
        self._running_until = time.monotonic() + budget_s(action)
        self._running = self._group.create_task(self._ask(action, self.transition))

    async def _ask(self, action: Asked, transition: Transition | None) -> None:
        """`transition`: whose step this is; when it ends there may be a newer one."""
        begun = time.monotonic_ns()
        try:
            outcome = await self._hands.ask(action)
        except HafwError as error:
            self._forget_running()
            self._finished(action, begun, transition, error=error)
        except asyncio.CancelledError:
            self._record_step(transition, action, begun, time.monotonic_ns(), "abandoned", action.describe())
            raise
        else:
            self._forget_running()
            self._finished(action, begun, transition, outcome=outcome)

    def _forget_running(self) -> None:
        self._running = self._running_action = None

    def _finished(
        self,
        action: Action,
        begun: int,
        transition: Transition | None,
        *,
        outcome: Outcome | None = None,
        error: HafwError | None = None,
    ) -> None:
        """Tell the core what came of an action; it may change its mind about the rest of the plan."""
        now = time.monotonic_ns()
        event: Event
        if error is None:
            if not (isinstance(action, SendBulk) and action.routine):
                self._record_step(transition, action, begun, now, "done", action.describe(), outcome)
            event = ActionDone(now, action, outcome)
        else:
            self._record_step(transition, action, begun, now, "failed", f"{action.describe()}: {error}")
            retryable = isinstance(error, ToolError) and error.retryable
            event = ActionFailed(now, action, error.message, retryable, answer_of(error))
        if error is None and isinstance(action, LoadRules | SwitchRules):
            self._close_transition(action, now)
        self.meet(event)

    def _set_timer(self, action: SetTimer) -> None:
        old = self._timers.pop(action.timer, None)
        if old is not None:
            old.cancel()
        loop = asyncio.get_running_loop()
        self._timers[action.timer] = loop.call_later(action.after_s, self._fire, action.timer)

    def _fire(self, timer: Timer) -> None:
        self._timers.pop(timer, None)
        self.post(TimerFired(time.monotonic_ns(), timer))

    def _begin_transition(self, seen: RoleSeen, before: Role, problems: Mapping[Condition, str]) -> None:
        if self.transition is not None and self.transition.closed is None:
            self._write_transition(self.transition, time.monotonic_ns(), "superseded")
        self.transition = Transition(uuid.uuid4().hex[:12], seen, before)
        if seen.role is Role.PRIMARY:
            self.transition.doubt = doubt(problems)
        self.role_since_ns = seen.at_ns

    def _close_transition(self, action: LoadRules | SwitchRules, now: int) -> None:
        """The transition is over for the packets: the rules of its role are in force."""
        transition = self.transition
        if (
            transition is None
            or transition.closed is not None
            or action.rules is not rules_of(self.state.role)
        ):
            return
        self._write_transition(transition, now, "done")

    def _stood_still(self, still: bool, seconds: float) -> None:
        text = (
            f"the agent itself stood still for {seconds:.1f} s" if still else "the agent runs without a halt"
        )
        self.post(ConditionSeen(time.monotonic_ns(), Condition.STALL, not still, text))

    def check_readiness(self) -> None:
        """keepalived reads it from a file, in which somebody else may have written."""
        if self.state.ready is None:
            return
        try:
            found = self._hands.restore_readiness(self.state.ready)
        except HafwError as error:
            found = error.message
        text = found or "keepalived reads the readiness that the agent has written"
        self.post(ConditionSeen(time.monotonic_ns(), Condition.READINESS, found is None, text))

    def _write_transition(self, transition: Transition, now: int, result: str) -> None:
        seen = transition.seen
        took_ms = (now - seen.noticed_ns) / 1e6
        opened = result == "done" and seen.role is Role.PRIMARY
        commit = transition.committed
        words = "superseded by a newer one" if result == "superseded" else f"in force after {took_ms:.1f} ms"
        stalled_s = self.pulse.stalled_ns(seen.noticed_ns, now) / 1e9
        if stalled_s > 0:
            words += f", of which the agent itself stood still for {stalled_s:.1f} s"
        if transition.doubt is not None:
            words += f"; states may be missing: {transition.doubt}"
        record = Record(
            event=Kind.TRANSITION,
            message=f"{transition.before.value} -> {seen.role.value} ({seen.trigger}): {words}",
            mono_ns=now,
            transition=transition.identity,
            from_role=transition.before.value,
            to_role=seen.role.value,
            trigger=seen.trigger,
            duration_ms=round(took_ms, 3),
            result=result,
            notified_to_open_ms=round(took_ms, 3) if opened else None,
            expected=commit.expected if commit else None,
            committed=commit.committed if commit else None,
            doubt=transition.doubt,
        )
        transition.closed = record
        self.record(record)

    def _record_step(
        self,
        transition: Transition | None,
        action: Action,
        begun: int,
        now: int,
        result: str,
        message: str,
        outcome: Outcome | None = None,
    ) -> None:
        commit = outcome if isinstance(outcome, Committed) else None
        if commit is not None:
            message += f": {commit.committed} of {commit.expected} (says the {commit.evidence})"
        if isinstance(outcome, Completed):
            message += f": {outcome.expectations}{'' if outcome.all_seen else ', and there are more'}"
        if isinstance(outcome, StatesIn):
            message += f": {outcome.states}" if outcome.peer_heard else ": nothing came from the peer"
            message += f"; {outcome.losses}" if outcome.losses else ""
        if isinstance(outcome, Reread):
            message += (
                f": it has {outcome.after} that are replicated, {outcome.before} before; "
                f"the kernel has {outcome.kernel} with the firewall's own"
            )
        record = Record(
            event=Kind.STEP,
            message=message if result == "done" else f"{message} ({result})",
            mono_ns=now,
            transition=transition.identity if transition else None,
            step=type(action).__name__,
            duration_ms=round((now - begun) / 1e6, 3),
            result=_result_of(result, commit),
            expected=commit.expected if commit else None,
            committed=commit.committed if commit else None,
        )
        if transition is not None:
            transition.committed = commit or transition.committed
            if len(transition.steps) < MOST_STEPS:
                transition.steps.append(record)
        self.record(record)

    def _tell(self, taken: Step) -> None:
        for notice in taken.notices:
            self.record(record_of(notice))


REST = 2
"""Between two looks at the rules, as a multiple of how long the first has taken."""
LONGEST_STEP_S = 60.0
"""Every question to conntrackd has a time limit of its own, 30 s at the most."""


def budget_s(action: Action) -> float:
    """After this time a step has not only failed: what should have ended it hangs."""
    asked_s = action.timeout_s if isinstance(action, CommitStates | AwaitStates) else 0.0
    return LONGEST_STEP_S + asked_s


def answer_of(error: HafwError) -> Answer:
    """What a failed question says of whom it was asked."""
    if isinstance(error, UnavailableError | MissingToolError):
        return Answer.UNREACHABLE
    return Answer.NONE if isinstance(error, SilentError) else Answer.REFUSED


MOST_STEPS = 50
"""How many steps of the last transition `hafw status` shows; the records have them all."""


def _result_of(result: str, commit: Committed | None) -> str:
    if commit is None or commit.complete:
        return result
    return "skipped" if commit.skipped else "partial"


def record_of(notice: Notice) -> Record:
    """An alarm, or its end."""
    return Record(
        event=Kind.RECOVERED if notice.well else Kind.ALARM,
        message=notice.text,
        mono_ns=time.monotonic_ns(),
        condition=notice.condition.value,
    )
