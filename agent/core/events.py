"""What was seen. Every event is a past fact with the moment it was seen, in nanoseconds of
CLOCK_MONOTONIC."""

from dataclasses import dataclass
from enum import Enum

from agent.core.actions import Action, Outcome, Timer
from agent.core.roles import Role, RuleSet


class Condition(Enum):
    """Things that are well or not well for a while. A change is recorded once, whichever way it goes."""

    KEEPALIVED = "keepalived"
    BUS = "bus"
    CONNTRACKD = "conntrackd"
    RULES = "rules"
    STATES = "states"
    REPLICATION = "replication"
    LOST_EVENTS = "lost-events"
    """conntrackd had not heard of some of its own kernel's states."""
    ORPHANED_ADDRESS = "orphaned-address"
    CONTRADICTION = "contradiction"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True)
class Started:
    """The agent is up. `loaded` is the rule set that an earlier run left in the kernel, None if there is
    none."""

    at_ns: int
    loaded: RuleSet | None


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
    at_ns: int
    condition: Condition
    well: bool
    text: str


@dataclass(frozen=True, slots=True)
class ConntrackdWent:
    """Nobody listens on conntrackd's socket."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class ConntrackdCame:
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
class TimerFired:
    at_ns: int
    timer: Timer


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A new pair file is in use; the rules have to be made anew."""

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


Event = (
    Started
    | RoleSeen
    | RulesChanged
    | ConditionSeen
    | ConntrackdWent
    | ConntrackdCame
    | StatesCounted
    | TimerFired
    | Reloaded
    | ActionDone
    | ActionFailed
)
