# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine remembers, and what every event teaches it whatever the phase."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from agent.core.actions import (
    Action,
    AskedOfConntrackd,
    AwaitStates,
    CommitStates,
    Committed,
    Compared,
    CompareStates,
    CompleteExpectations,
    CompleteRemaining,
    FlushCaches,
    LoadRules,
    MarkOwed,
    Refreshed,
    RefreshStates,
    RequestResync,
    Reread,
    ResyncKernel,
    SetReadiness,
    SetStanding,
    SetTimer,
    ShortenTimers,
    StartClean,
    StatesIn,
    SwitchRules,
    VerifyRules,
)
from agent.core.conditions import CONDITIONS, Condition, Finding, Observation
from agent.core.coverage import Coverage, judge, read_again
from agent.core.events import (
    ActionDone,
    ActionFailed,
    ConditionSeen,
    ConntrackdAsked,
    ConntrackdStarted,
    Event,
    QueryResult,
    Reloaded,
    RoleSeen,
    RulesChanged,
    SplitEnded,
    Started,
    StatesCounted,
)
from agent.core.roles import Role, RuleSet, Standing, rule_set_for


class Phase(Enum):
    START = "start"
    RESUMING = "resuming"
    FOLLOWING = "following"
    PREPARING = "preparing"
    SERVING = "serving"
    HOLDING = "holding"
    EXPECTING = "expecting"
    HANDING = "handing over"

    @property
    def is_open(self) -> bool:
        """The gate lets packets through."""
        return self in (Phase.SERVING, Phase.RESUMING, Phase.EXPECTING, Phase.HANDING)


@dataclass(frozen=True, slots=True)
class State:
    """What the machine knows between two events."""

    phase: Phase = Phase.START
    role: Role = Role.UNKNOWN
    loaded: RuleSet | None = None
    """Which of our rule sets is in the kernel."""
    whole: bool = False
    """All of the rules in the kernel are as we made them."""
    promoted_ns: int = 0
    """When this node became primary; the limit of the gate counts from here."""
    commits: int = 0
    """How many commits of this promotion conntrackd has answered."""
    flushed: bool = True
    """Nothing of a commit is left in the external cache."""
    touched: int = 0
    """How many states the last refresh reported again."""
    problems: Mapping[Condition, str] = field(default_factory=dict)
    """The conditions that are not ok now, with the newest words for each."""
    ready: bool | None = None
    """What was reported to keepalived of the states."""
    coverage: Coverage = field(default_factory=Coverage)
    """Whether conntrackd knows all states of this kernel."""
    reading: bool = False
    """conntrackd reads the kernel's table, or is about to, and sends all of it after that."""
    owed: bool = False
    """No commit of this promotion was answered (cache mode): conntrackd may still have states for the
    kernel."""
    marked: bool = False
    """The next agent will find that a commit is owed."""
    committing: bool = False
    """The commit that was owed is being made, or is about to."""
    put_ns: int = 0
    """When all rules were last put in force."""
    asked_ns: int = 0
    """When the peer was last asked for all its states."""
    kernel: int = 0
    """How many states the kernel had when last counted."""
    unclean: bool = False
    """This backup has states of the time when both nodes were primary."""
    emptied: bool = False
    """It has deleted its states, and nothing says yet that the primary's have come in their place."""
    standing: Standing = Standing.TAKES_PART
    """What keepalived was last made to do in its election."""
    handover_ns: int = 0
    """When the last handover of this primary began."""

    @property
    def wanted(self) -> RuleSet:
        """In a handover both gates are open."""
        both = self.phase in (Phase.EXPECTING, Phase.HANDING)
        return RuleSet.PRIMARY if both else rule_set_for(self.role)


@dataclass(frozen=True, slots=True)
class ConditionChange:
    """A condition changed, or something must be said: `ok` False is an alarm."""

    condition: Condition
    ok: bool
    text: str


def learn(state: State, event: Event) -> tuple[State, tuple[ConditionChange, ...]]:
    """What an event says, whatever the phase: about rules, states and conditions."""
    match event:
        case Started():
            found = replace(state, loaded=event.loaded, owed=event.owed, marked=event.owed)
            return replace(found, standing=event.standing), ()
        case RulesChanged() if is_stale(state, event):
            return state, ()
        case RulesChanged():
            return note(replace(state, whole=False), Condition.RULES, False, event.what)
        case RoleSeen():
            return _learn_role(state, event.role)
        case Reloaded():
            return replace(state, whole=False), ()
        case ConditionSeen():
            return note(state, event.condition, event.ok, event.text)
        case ConntrackdAsked():
            return note_all(state, _of_answer(None, event.answer, event.text))
        case ConntrackdStarted():
            return replace(state, coverage=Coverage()), ()
        case StatesCounted():
            return _learn_count(state, event)
        case SplitEnded():
            return replace(state, unclean=state.unclean or state.role is Role.BACKUP), ()
        case ActionDone():
            return _learn_done(_ended(state, event.action, event.at_ns), event)
        case ActionFailed():
            return _learn_failed(_ended(state, event.action, event.at_ns), event)
        case _:
            return state, ()


def is_stale(state: State, event: RulesChanged) -> bool:
    """Seen before the rules were put in force again; a flush is seen twice, by its notice and by a look."""
    return event.at_ns < state.put_ns


def _ended(state: State, action: Action, at_ns: int) -> State:
    if isinstance(action, RequestResync):
        return replace(state, asked_ns=at_ns)
    if isinstance(action, CommitStates) and action.late:
        return replace(state, committing=False)
    return replace(state, reading=False) if isinstance(action, ResyncKernel) else state


def _learn_done(state: State, event: ActionDone) -> tuple[State, tuple[ConditionChange, ...]]:
    if isinstance(event.action, AskedOfConntrackd):
        answered, changes = note_all(state, _of_answer(event.action, QueryResult.OK, ""))
        learned, more = _learn_outcome(answered, event)
        return learned, (*changes, *more)
    match event.action:
        case LoadRules(rules=rules):
            return note(
                replace(state, loaded=rules, whole=True, put_ns=event.at_ns),
                Condition.RULES,
                True,
                "the rules are in force again",
            )
        case SwitchRules(rules=rules):
            return replace(state, loaded=rules), ()
        case SetReadiness(ready=ready):
            return replace(state, ready=ready), ()
        case SetStanding(standing=standing):
            return replace(state, standing=standing), ()
        case MarkOwed(owed=owed):
            return replace(state, marked=owed), ()
        case RefreshStates() if isinstance(event.outcome, Refreshed):
            return replace(state, touched=event.outcome.touched), ()
        case CompareStates() if isinstance(event.outcome, Compared) and event.outcome.asked:
            whole, text = event.outcome.whole, comparison_text(event.outcome)
            compared = replace(state, emptied=state.emptied and not whole)
            return note(compared, Condition.REPLICATION, whole, text)
        case (
            VerifyRules()
            | SetTimer()
            | RefreshStates()
            | CompareStates()
            | CompleteExpectations()
            | CompleteRemaining()
        ):
            return state, ()


def _learn_outcome(state: State, event: ActionDone) -> tuple[State, tuple[ConditionChange, ...]]:
    """What conntrackd has done, beyond that it answered."""
    match event.action:
        case FlushCaches() | StartClean() as action:
            clean = isinstance(action, StartClean)
            flushed = replace(
                state, flushed=True, unclean=state.unclean and not clean, emptied=state.emptied or clean
            )
            return note(flushed, Condition.FLUSH, True, "conntrackd has emptied its caches")
        case CommitStates() if isinstance(event.outcome, Committed):
            answered = not event.outcome.skipped
            commits = state.commits + int(answered)
            learned = replace(state, commits=commits, owed=state.owed and not answered)
            return note(learned, Condition.STATES, event.outcome.complete, _commit_text(event.outcome))
        case ResyncKernel() if isinstance(event.outcome, Reread):
            return _learn_reread(state, event.at_ns, event.outcome)
        case AwaitStates() if isinstance(event.outcome, StatesIn) and event.outcome.peer_heard:
            lost = bool(event.outcome.losses)
            heard = replace(state, emptied=state.emptied and lost)
            return note(heard, Condition.REPLICATION, not lost, _catch_up_text(event.outcome))
        case _:
            return state, ()


def _learn_role(state: State, role: Role) -> tuple[State, tuple[ConditionChange, ...]]:
    """A node that is not primary has the peer's states in its kernel, which its own conntrackd does not
    count."""
    if role is state.role:
        return state, ()
    over = [condition for condition in state.problems if CONDITIONS[condition].of_role]
    text = f"resolved with the role: this node is now {role.value}"
    lacking = role is not Role.PRIMARY
    changed = replace(
        state,
        role=role,
        coverage=Coverage(),
        unclean=state.unclean and lacking,
        emptied=state.emptied and lacking,
    )
    return note_all(changed, [(condition, True, text) for condition in over])


def _learn_count(state: State, event: StatesCounted) -> tuple[State, tuple[ConditionChange, ...]]:
    counted = replace(state, coverage=judge(state.coverage, event), kernel=event.kernel)
    if counted.coverage.outside is None or counted.coverage.suspicions:
        return counted, ()
    return note(counted, Condition.LOST_EVENTS, True, "conntrackd knows all of this kernel's states again")


def _learn_reread(state: State, at_ns: int, outcome: Reread) -> tuple[State, tuple[ConditionChange, ...]]:
    coverage, lost = read_again(state.coverage, at_ns, outcome)
    if not lost:
        return replace(state, coverage=coverage), ()
    text = (
        f"conntrackd had missed {lost} of this kernel's {outcome.kernel} states (a burst was larger "
        "than its buffer); it has read them now and sends them to the peer"
    )
    return note(replace(state, coverage=coverage), Condition.LOST_EVENTS, False, text)


_NOTHING_TO_READ = FlushCaches | StartClean | ShortenTimers | RequestResync


def _of_answer(asked: Action | None, answer: QueryResult, text: str) -> tuple[Finding, ...]:
    """What an answer, or that none came, says of conntrackd itself. `asked`: None at a poll."""
    reached, spoke = answer is not QueryResult.UNREACHABLE, answer is not QueryResult.NONE
    findings: tuple[Finding, ...] = (
        (
            Condition.CONNTRACKD,
            reached,
            "conntrackd can be reached again" if reached else f"{text}; states are not replicated",
        ),
        (
            Condition.CONNTRACKD_SILENT,
            spoke,
            "conntrackd answers again" if spoke else f"{text}; it runs, but hangs or is too busy",
        ),
    )
    if not reached or not spoke or isinstance(asked, _NOTHING_TO_READ):
        return findings  # nothing was read that could be clear or not
    clear = answer is QueryResult.OK
    words = "conntrackd's answers are valid again" if clear else text
    return (*findings, (Condition.CONNTRACKD_UNCLEAR, clear, words))


def _learn_failed(state: State, event: ActionFailed) -> tuple[State, tuple[ConditionChange, ...]]:
    if isinstance(event.action, AskedOfConntrackd):
        findings = _of_answer(event.action, event.answer, event.reason)
        if isinstance(event.action, FlushCaches | StartClean) and event.answer is QueryResult.REFUSED:
            findings = (*findings, (Condition.FLUSH, False, event.reason))
        if isinstance(event.action, CommitStates):
            # one that timed out waits in conntrackd's socket, where a flush would come behind it
            state = replace(state, owed=True)
        return note_all(state, findings)
    match event.action:
        case SwitchRules() | LoadRules() | VerifyRules():
            text = f"{event.reason}; keeping the loaded rules"
            return note(replace(state, whole=False), Condition.RULES, False, text)
        case SetReadiness(ready=ready):
            return replace(state, ready=ready), ()  # what it should say; a poll rewrites it
        case SetStanding(standing=Standing.GIVES_UP):
            return state, ()
        case SetStanding(standing=standing):
            return replace(state, standing=standing), ()  # the same
        case SetTimer() | RefreshStates() | CompareStates() | CompleteExpectations() | CompleteRemaining():
            return state, ()  # its record says so: it may cost an announced connection, and no other
        case MarkOwed():
            return state, ()  # its record says so; the next plan for the gate tries it again


def _catch_up_text(outcome: StatesIn) -> str:
    if outcome.losses:
        return f"{outcome.losses} while all states were sent again; they are requested again"
    return "all of the peer's states have arrived, and nothing was lost"


def comparison_text(outcome: Compared) -> str:
    if not outcome.asked:
        return f"nobody was asked: {outcome.reason}"
    rounds = "round" if outcome.rounds == 1 else "rounds"
    how = f"compared in {outcome.rounds} {rounds}, {outcome.touched:,} were sent again"
    if outcome.ended:
        how += f", {outcome.ended:,} that have ended there were deleted"
    if outcome.losses:
        return f"{outcome.losses} while the states were compared ({how})"
    if outcome.missing:
        return f"{outcome.missing:,} of the primary's {outcome.states:,} states are missing ({how})"
    return f"all {outcome.states:,} states of the primary are here ({how})"


def _commit_text(outcome: Committed) -> str:
    if outcome.skipped:
        return "conntrackd skipped the commit because another one runs"
    if outcome.complete:
        return f"all {outcome.committed} states that conntrackd had are in the kernel"
    return (
        f"only {outcome.committed} of {outcome.expected} states came into the kernel "
        f"({outcome.failed} refused); "
        "their connections will break"
    )


def note(
    state: State, condition: Condition, ok: bool, text: str
) -> tuple[State, tuple[ConditionChange, ...]]:
    """Said once when it begins and once when it is over; `problems` has the newest words. A
    program that asked for a reload looks for the answer to it: another error is said as well."""
    before = condition not in state.problems
    answer = (
        CONDITIONS[condition].observation is Observation.RELOAD
        and state.problems.get(condition, text) != text
    )
    if ok and before:
        return state, ()
    problems = {known: words for known, words in state.problems.items() if known is not condition}
    if not ok:
        problems[condition] = text
    said = (ConditionChange(condition, ok, text),) if ok != before or answer else ()
    return replace(state, problems=problems), said


def note_all(state: State, findings: Iterable[Finding]) -> tuple[State, tuple[ConditionChange, ...]]:
    changes: list[ConditionChange] = []
    for finding in findings:
        state, said = note(state, *finding)
        changes += said
    return state, tuple(changes)
