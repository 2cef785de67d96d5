# SPDX-License-Identifier: GPL-2.0-or-later
"""The records of a change of role: each of its steps, the way as a whole, and the alarms on it."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agent.core.actions import (
    Committed,
    Compared,
    CompareStates,
    Completed,
    LoadRules,
    Outcome,
    RefreshStates,
    Reread,
    StatesIn,
    SwitchRules,
)
from agent.core.conditions import Condition, doubt
from agent.core.events import RoleSeen
from agent.core.roles import Role, rule_set_for
from agent.core.state import ConditionChange, comparison_text
from agent.engine.result import Result
from agent.model.records import Ending, Record, RecordKind

MAX_STEPS = 50
"""How many steps of the last transition `hafw status` shows; the records have them all."""


@dataclass(slots=True)
class Transition:
    """What is recorded of the way from one role to another, until its rules are in force."""

    identity: str
    seen: RoleSeen
    before: Role
    steps: list[Record] = field(default_factory=list)
    closed: Record | None = None
    committed: Committed | None = None
    doubt: str | None = None
    """Why states may be missing, as far as that was known when the role came."""


class TransitionLog:
    def __init__(self, write: Callable[[Record], None], stalled_ns: Callable[[int, int], int]) -> None:
        """`stalled_ns`: how long the agent itself was stalled between two moments."""
        self._write = write
        self._stalled_ns = stalled_ns
        self.current: Transition | None = None
        self.role_since_ns = time.monotonic_ns()
        self.ceased_ns: int | None = None
        """When this node last ceased to be primary. Of one that was halted, when that began: it is not known
        that it was primary any longer."""
        self.served_ns = 0
        """For how long it had been primary then."""

    def begin(self, seen: RoleSeen, before: Role, problems: Mapping[Condition, str]) -> None:
        if self.current is not None and self.current.closed is None:
            self._close(self.current, time.monotonic_ns(), Ending.SUPERSEDED)
        self.current = Transition(uuid.uuid4().hex[:12], seen, before)
        if seen.role is Role.PRIMARY:
            self.current.doubt = doubt(problems)
        if before is Role.PRIMARY:
            self.ceased_ns = seen.noticed_ns
            self.served_ns = max(0, seen.noticed_ns - self.role_since_ns)
        self.role_since_ns = seen.at_ns

    def add(self, result: Result, transition: Transition | None) -> None:
        """`transition`: whose step it was; when it ends there may be a newer one."""
        if not _is_routine(result):
            record = _record_of_step(result, transition)
            if transition is not None:
                if isinstance(result.outcome, Committed):
                    transition.committed = result.outcome
                if len(transition.steps) < MAX_STEPS:
                    transition.steps.append(record)
            self._write(record)
        if self._ends(result) and self.current is not None:
            self._close(self.current, result.ended_ns, Ending.DONE)

    def report(self, changes: Iterable[ConditionChange]) -> None:
        """Alarms, and their ends."""
        for change in changes:
            self._write(
                Record(
                    event=RecordKind.RECOVERED if change.ok else RecordKind.ALARM,
                    message=change.text,
                    mono_ns=time.monotonic_ns(),
                    condition=change.condition.value,
                )
            )

    def _ends(self, result: Result) -> bool:
        """The transition is over for the packets: the rules of its role are in force."""
        return (
            self.current is not None
            and self.current.closed is None
            and result.error is None
            and isinstance(result.action, LoadRules | SwitchRules)
            and result.action.rules is rule_set_for(self.current.seen.role)
        )

    def _close(self, transition: Transition, now: int, how: Ending) -> None:
        seen = transition.seen
        took_ms = (now - seen.noticed_ns) / 1e6
        opened = how is Ending.DONE and seen.role is Role.PRIMARY
        commit = transition.committed
        words = f"in force after {took_ms:.1f} ms" if how is Ending.DONE else "superseded by a newer one"
        stalled_s = self._stalled_ns(seen.noticed_ns, now) / 1e9
        if stalled_s > 0:
            words += f", of which the agent itself was stopped for {stalled_s:.1f} s"
        if transition.doubt is not None:
            words += f"; states may be missing: {transition.doubt}"
        transition.closed = Record(
            event=RecordKind.TRANSITION,
            message=f"{transition.before.value} -> {seen.role.value} ({seen.trigger}): {words}",
            mono_ns=now,
            transition=transition.identity,
            from_role=transition.before.value,
            to_role=seen.role.value,
            trigger=seen.trigger,
            duration_ms=round(took_ms, 3),
            result=how.value,
            notified_to_open_ms=round(took_ms, 3) if opened else None,
            expected=commit.expected if commit else None,
            committed=commit.committed if commit else None,
            doubt=transition.doubt,
        )
        self._write(transition.closed)


def _is_routine(result: Result) -> bool:
    """What is regularly sent again is only recorded when it fails, a regular comparison when it finds
    something."""
    if result.error is not None:
        return False
    if isinstance(result.action, RefreshStates):
        return True  # cut off, too: all is sent after that
    if result.abandoned:
        return False
    outcome = result.outcome
    if isinstance(outcome, Compared) and outcome.asked and outcome.touched:
        return False
    return isinstance(result.action, CompareStates) and result.action.routine


def _record_of_step(result: Result, transition: Transition | None) -> Record:
    outcome = result.outcome
    commit = outcome if isinstance(outcome, Committed) else None
    return Record(
        event=RecordKind.STEP,
        message=_message(result),
        mono_ns=result.ended_ns,
        transition=transition.identity if transition else None,
        step=type(result.action).__name__,
        duration_ms=round((result.ended_ns - result.begun_ns) / 1e6, 3),
        result=_ending(result).value,
        expected=commit.expected if commit else None,
        committed=commit.committed if commit else None,
    )


def _message(result: Result) -> str:
    what = result.action.describe()
    if result.abandoned:
        return f"{what} (abandoned)"
    if result.error is not None:
        return f"{what}: {result.error} (failed)"
    return what + _found(result.outcome)


def _found(outcome: Outcome | None) -> str:
    match outcome:
        case Committed():
            return f": {outcome.committed} of {outcome.expected} (says the {outcome.evidence})"
        case Compared():
            return f": {comparison_text(outcome)}"
        case Completed():
            return f": {outcome.expectations}{'' if outcome.all_seen else ', and there are more'}"
        case StatesIn():
            states = f": {outcome.states}" if outcome.peer_heard else ": nothing came from the peer"
            return f"{states}; {outcome.losses}" if outcome.losses else states
        case Reread():
            return (
                f": it has {outcome.after} that are replicated, {outcome.before} before; "
                f"the kernel has {outcome.kernel} with the firewall's own"
            )
        case _:
            return ""


def _ending(result: Result) -> Ending:
    if result.abandoned:
        return Ending.ABANDONED
    if result.error is not None:
        return Ending.FAILED
    commit = result.outcome
    if not isinstance(commit, Committed) or commit.complete:
        return Ending.DONE
    return Ending.SKIPPED if commit.skipped else Ending.PARTIAL
