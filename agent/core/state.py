"""What the machine remembers, and what every event teaches it whatever the phase."""

from dataclasses import dataclass, field, replace
from enum import Enum

from agent.core.actions import (
    Action,
    AwaitStates,
    CommitStates,
    Committed,
    FlushCaches,
    LoadRules,
    RequestResync,
    Reread,
    ResyncKernel,
    SendBulk,
    Sent,
    SetReadiness,
    SetTimer,
    ShortenTimers,
    StatesIn,
    SwitchRules,
    VerifyRules,
)
from agent.core.coverage import Coverage, judge, read_again
from agent.core.events import (
    ActionDone,
    ActionFailed,
    Condition,
    ConditionSeen,
    ConntrackdCame,
    ConntrackdWent,
    Event,
    Reloaded,
    RoleSeen,
    RulesChanged,
    Started,
    StatesCounted,
)
from agent.core.roles import Role, RuleSet


class Phase(Enum):
    START = "start"
    FOLLOWING = "following"
    PREPARING = "preparing"
    SERVING = "serving"
    HOLDING = "holding"


@dataclass(frozen=True, slots=True)
class State:
    """`loaded` and `whole` are what we know of the rules in the kernel: which set, and that all of it is
    ours.

    `resumed`: the gate was open when this run of the agent began. `flushed`: nothing of a commit is left in
    the external cache. `states`: how many went out with the last bulk. `ready`: what keepalived was told of
    the states. `unwell`: conditions that are not well now. `reading`: conntrackd reads the kernel's table,
    or is about to, and sends all of it after that.
    """

    phase: Phase = Phase.START
    role: Role = Role.UNKNOWN
    loaded: RuleSet | None = None
    whole: bool = False
    promoted_ns: int = 0
    commits: int = 0
    resumed: bool = False
    flushed: bool = True
    states: int = 0
    unwell: frozenset[Condition] = frozenset()
    ready: bool | None = None
    coverage: Coverage = field(default_factory=Coverage)
    reading: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A condition changed, or something must be said: `well` False is an alarm."""

    condition: Condition
    well: bool
    text: str


def learn(state: State, event: Event) -> tuple[State, tuple[Notice, ...]]:
    """What an event tells, whatever the phase: about rules, states and conditions."""
    match event:
        case Started():
            return replace(state, loaded=event.loaded), ()
        case RulesChanged():
            return note(replace(state, whole=False), Condition.RULES, False, event.what)
        case RoleSeen():
            return _learn_role(state, event.role)
        case Reloaded():
            return replace(state, whole=False), ()
        case ConditionSeen():
            return note(state, event.condition, event.well, event.text)
        case ConntrackdWent():
            return note(
                state, Condition.CONNTRACKD, False, "conntrackd is not running; states are not replicated"
            )
        case ConntrackdCame():
            return note(replace(state, coverage=Coverage()), *_ANSWERS)
        case StatesCounted():
            return _learn_count(state, event)
        case ActionDone():
            return _learn_done(_ended(state, event.action), event)
        case ActionFailed():
            return _learn_failed(_ended(state, event.action), event)
        case _:
            return state, ()


def _ended(state: State, action: Action) -> State:
    return replace(state, reading=False) if isinstance(action, ResyncKernel) else state


def _learn_done(state: State, event: ActionDone) -> tuple[State, tuple[Notice, ...]]:
    match event.action:
        case LoadRules(rules=rules):
            return note(
                replace(state, loaded=rules, whole=True),
                Condition.RULES,
                True,
                "the rules are in force again",
            )
        case SwitchRules(rules=rules):
            return replace(state, loaded=rules), ()
        case FlushCaches():
            return note(replace(state, flushed=True), *_ANSWERS)
        case CommitStates() if isinstance(event.outcome, Committed):
            learned = replace(state, commits=state.commits + (0 if event.outcome.skipped else 1))
            return note(learned, Condition.STATES, event.outcome.complete, _commit_text(event.outcome))
        case ResyncKernel() if isinstance(event.outcome, Reread):
            return _learn_reread(state, event.at_ns, event.outcome)
        case RequestResync() | ShortenTimers():
            return note(state, *_ANSWERS)
        case SendBulk():
            states = event.outcome.states if isinstance(event.outcome, Sent) else state.states
            return note(replace(state, states=states), *_ANSWERS)
        case SetReadiness(ready=ready):
            return replace(state, ready=ready), ()
        case AwaitStates() if isinstance(event.outcome, StatesIn) and event.outcome.peer_heard:
            return note(state, Condition.STATES, True, f"the peer's states are in ({event.outcome.states})")
        case _:
            return state, ()


def _learn_role(state: State, role: Role) -> tuple[State, tuple[Notice, ...]]:
    """Who is not primary has the peer's states in its kernel, which its own conntrackd does not count."""
    if role is state.role:
        return state, ()
    changed = replace(state, role=role, coverage=Coverage())
    return note(changed, Condition.LOST_EVENTS, True, "conntrackd's states are counted anew in the new role")


def _learn_count(state: State, event: StatesCounted) -> tuple[State, tuple[Notice, ...]]:
    counted = replace(state, coverage=judge(state.coverage, event))
    if counted.coverage.outside is None or counted.coverage.suspicions:
        return counted, ()
    return note(counted, Condition.LOST_EVENTS, True, "conntrackd knows all of this kernel's states again")


def _learn_reread(state: State, at_ns: int, outcome: Reread) -> tuple[State, tuple[Notice, ...]]:
    coverage, lost = read_again(state.coverage, at_ns, outcome)
    answers, notices = note(replace(state, coverage=coverage), *_ANSWERS)
    if not lost:
        return answers, notices
    text = (
        f"conntrackd had not heard of {lost} of this kernel's {outcome.kernel} states (a burst was larger "
        "than its buffer); it has read them now and sends them to the peer"
    )
    unwell, more = note(answers, Condition.LOST_EVENTS, False, text)
    return unwell, (*notices, *more)


_ANSWERS = (Condition.CONNTRACKD, True, "conntrackd answers again")


def _learn_failed(state: State, event: ActionFailed) -> tuple[State, tuple[Notice, ...]]:
    match event.action:
        case SwitchRules() | LoadRules() | VerifyRules():
            text = f"{event.reason}; keeping the loaded rules"
            return note(replace(state, whole=False), Condition.RULES, False, text)
        case SetReadiness() | SetTimer():
            return state, ()
        case _:
            return note(state, Condition.CONNTRACKD, False, event.reason)


def _commit_text(outcome: Committed) -> str:
    if outcome.skipped:
        return "conntrackd skipped the commit because another one runs"
    if outcome.complete:
        return f"all {outcome.committed} states are in the kernel"
    return (
        f"only {outcome.committed} of {outcome.expected} states came into the kernel "
        f"({outcome.failed} refused); "
        "connections that they belong to will break"
    )


def note(state: State, condition: Condition, well: bool, text: str) -> tuple[State, tuple[Notice, ...]]:
    """Said once when it turns bad and once when it is well again."""
    if well == (condition not in state.unwell):
        return state, ()
    unwell = state.unwell - {condition} if well else state.unwell | {condition}
    return replace(state, unwell=unwell), (Notice(condition, well, text),)
