# SPDX-License-Identifier: GPL-2.0-or-later
"""What was seen. Every event is a past fact with the moment it was seen, in nanoseconds of
CLOCK_MONOTONIC."""

from dataclasses import dataclass
from enum import Enum

from agent.core.actions import Action, Outcome, Timer
from agent.core.conditions import Condition
from agent.core.roles import Role, RuleSet, Standing


@dataclass(frozen=True, slots=True)
class Started:
    """The agent is up. `loaded` is the rule set that an earlier run left in the kernel, None if there is
    none. `owed`: it had opened the gate before a commit was answered. `standing`: what keepalived still
    reads."""

    at_ns: int
    loaded: RuleSet | None
    owed: bool = False
    standing: Standing = Standing.TAKES_PART


@dataclass(frozen=True, slots=True)
class RoleSeen:
    """The real state was read, because `trigger` hinted at a change that was first noticed at
    `noticed_ns`."""

    at_ns: int
    role: Role
    trigger: str
    noticed_ns: int


@dataclass(frozen=True, slots=True)
class RulesChanged:
    """Our table is not what we loaded; `what` says how it differs."""

    at_ns: int
    what: str


@dataclass(frozen=True, slots=True)
class ConditionSeen:
    """What the observation of `condition` has found; posted after every look, whether ok or not."""

    at_ns: int
    condition: Condition
    ok: bool
    text: str


class QueryResult(Enum):
    """What became of a question to conntrackd."""

    OK = "ok"
    REFUSED = "refused"
    """It answers, and did not do what it was asked for."""
    UNREACHABLE = "unreachable"
    """No process listens on its socket, or its command cannot be started."""
    NONE = "none"
    """None came in time. The question may still be waiting in its socket, and be carried out later."""


@dataclass(frozen=True, slots=True)
class ConntrackdAsked:
    """The statistics were asked for at a poll; REFUSED: the answer is invalid."""

    at_ns: int
    answer: QueryResult
    text: str = ""


@dataclass(frozen=True, slots=True)
class ConntrackdStarted:
    """Another conntrackd than before listens, with empty caches."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class StatesCounted:
    """How many states the kernel has and how many conntrackd's internal cache. `at_ns`: before they were
    counted."""

    at_ns: int
    kernel: int
    cached: int


@dataclass(frozen=True, slots=True)
class SplitEnded:
    """Both nodes were primary at once, and one of them is backup now. The other one has just said that it is
    there. `text`: for how long."""

    at_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    at_ns: int
    timer: Timer


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A new pair file is in use; the rules have to be made again."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class HandoverAnnounced:
    """The primary hands over to this node as soon as its gate is open."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class HandoverBegun:
    """This primary hands over: the peer's gate is open, or an administrator does not wait for that."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class HandoverEnded:
    """The peer is primary and has announced itself, or nothing comes of it."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class ActionDone:
    at_ns: int
    action: Action
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class ActionFailed:
    """`retryable`: the same action may succeed a moment later."""

    at_ns: int
    action: Action
    reason: str
    retryable: bool = False
    answer: QueryResult = QueryResult.REFUSED


Event = (
    Started
    | RoleSeen
    | RulesChanged
    | ConditionSeen
    | ConntrackdAsked
    | ConntrackdStarted
    | StatesCounted
    | SplitEnded
    | TimerFired
    | Reloaded
    | HandoverAnnounced
    | HandoverBegun
    | HandoverEnded
    | ActionDone
    | ActionFailed
)
