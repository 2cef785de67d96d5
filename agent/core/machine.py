# SPDX-License-Identifier: GPL-2.0-or-later
"""The heart of hafw: from what was seen to what is to be done. Pure; time arrives inside the events.

Theory of operation
-------------------
keepalived has put the virtual addresses in place, and announced them, before the agent is notified. Packets
of established connections therefore arrive at a new primary while its states may still be outside the
kernel. Any answer it gave them would end the connection; so until the states are usable its gate drops them
silently, and TCP repairs the gap by itself.

    START       nothing is known. The gate is closed.
    RESUMING    nothing is known, but an earlier run of the agent left the gate open. It stays so until
                the role is known.
    FOLLOWING   not the primary, for whatever reason. The gate is closed, the peer's states come in.
    PREPARING   primary by the addresses and keepalived's word. The gate is closed until the states are
                usable; in direct mode they already are, in cache mode they are committed first.
    SERVING     primary, the gate is open. The states go out to the peer.
                Where it opened by its time limit, a commit is owed: it is made as soon as conntrackd
                answers, and the caches are not emptied before that.
    EXPECTING   a backup to which the primary hands over (direct mode): it has all states, and its gate is
                open before the addresses come. Closed again when they do not come in time.
    HANDING     this primary hands over: keepalived gives up the addresses, and what still comes to this
                node's own link-layer address is forwarded until the peer has announced itself. Without
                the peer it gets the addresses back, and is primary as before.
    HOLDING     primary, but the time limit of the gate is over without usable states and the pair file says
                that it stays closed then. An alarm; tried again until it works.

Every observation says what is true now (law 1). A move has a plan, which replaces whatever is left of the
one before at the next action boundary (law 3). Plans may be carried out twice or be cut anywhere (law 2),
because the gate is closed first and opened last. `plan is None` in a Step means: the running plan continues.

What an event means is decided before the table is asked; nothing changes the table's answer afterwards. Of
the event itself no more is known then than its `Meaning`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.core import plan as plans
from agent.core.actions import (
    AwaitStates,
    CommitStates,
    Committed,
    Compared,
    CompareStates,
    LoadRules,
    Plan,
    RequestResync,
    ResyncKernel,
    SetStanding,
    StartClean,
    SwitchRules,
    Timer,
    VerifyRules,
)
from agent.core.conditions import Condition
from agent.core.coverage import wants_reread
from agent.core.events import (
    ActionDone,
    ActionFailed,
    ConditionSeen,
    ConntrackdAsked,
    ConntrackdStarted,
    Event,
    HandoverAnnounced,
    HandoverBegun,
    HandoverEnded,
    QueryResult,
    Reloaded,
    RoleSeen,
    RulesChanged,
    SplitEnded,
    Started,
    StatesCounted,
    TimerFired,
)
from agent.core.handover import can_expect
from agent.core.moves import EventKind, Make
from agent.core.plan import Settings
from agent.core.roles import Role, RuleSet, Standing
from agent.core.state import ConditionChange, Phase, State, is_stale, learn, note
from agent.model.pair import AfterLimit, SyncMode

MAX_COMMITS = 2
"""How often a commit that brought in less than expected is tried: what the kernel refuses twice it
refuses."""


P, K, M = Phase, EventKind, Make

TRANSITIONS: dict[tuple[Phase, EventKind], tuple[Phase, Make]] = {
    (P.START, K.STARTED): (P.START, M.START),
    (P.START, K.FOUND_OPEN): (P.RESUMING, M.NOTHING),
    (P.START, K.PROMOTED): (P.PREPARING, M.PROMOTE),
    (P.START, K.DEMOTED): (P.FOLLOWING, M.FOLLOW),
    (P.START, K.RULES_FAILED): (P.START, M.RETRY),
    (P.START, K.RULES_CHANGED): (P.START, M.START),
    (P.START, K.RETRY_DUE): (P.START, M.START),
    (P.RESUMING, K.RESUMED): (P.SERVING, M.OPEN),
    (P.RESUMING, K.DEMOTED): (P.FOLLOWING, M.FOLLOW),
    (P.FOLLOWING, K.PROMOTED): (P.PREPARING, M.PROMOTE),
    (P.FOLLOWING, K.DEMOTED): (P.FOLLOWING, M.FOLLOW),
    (P.FOLLOWING, K.RULES_FAILED): (P.FOLLOWING, M.RETRY),
    (P.FOLLOWING, K.RULES_CHANGED): (P.FOLLOWING, M.FOLLOW),
    (P.FOLLOWING, K.SETTLED): (P.FOLLOWING, M.CATCH_UP),
    (P.FOLLOWING, K.RETRY_DUE): (P.FOLLOWING, M.FOLLOW),
    (P.FOLLOWING, K.COMPARED): (P.FOLLOWING, M.READY),
    (P.FOLLOWING, K.COMPARE_DUE): (P.FOLLOWING, M.COMPARE),
    (P.FOLLOWING, K.NOT_COMPARED): (P.FOLLOWING, M.COMPARE_SOON),
    (P.FOLLOWING, K.CATCH_UP_FAILED): (P.FOLLOWING, M.NOT_READY),
    (P.FOLLOWING, K.STATES_MISSED): (P.FOLLOWING, M.NOT_READY),
    (P.FOLLOWING, K.CONNTRACKD_LOST): (P.FOLLOWING, M.NOT_READY),
    (P.FOLLOWING, K.CONNTRACKD_STARTED): (P.FOLLOWING, M.CATCH_UP),
    (P.FOLLOWING, K.SPLIT_ENDED): (P.FOLLOWING, M.CATCH_UP),
    (P.FOLLOWING, K.RULES_FIRST): (P.FOLLOWING, M.FOLLOW),
    (P.PREPARING, K.DEMOTED): (P.FOLLOWING, M.FOLLOW),
    (P.PREPARING, K.OPENED): (P.SERVING, M.NOTHING),
    (P.PREPARING, K.COMMIT_SHORT): (P.PREPARING, M.RETRY),
    (P.PREPARING, K.COMMIT_POOR): (P.PREPARING, M.OPEN),
    (P.PREPARING, K.LIMIT_OPENS): (P.PREPARING, M.OPEN),
    (P.PREPARING, K.LIMIT_HOLDS): (P.HOLDING, M.RETRY),
    (P.PREPARING, K.RULES_FAILED): (P.PREPARING, M.RETRY),
    (P.PREPARING, K.RULES_CHANGED): (P.PREPARING, M.PROMOTE),
    (P.PREPARING, K.RETRY_DUE): (P.PREPARING, M.PROMOTE),
    (P.SERVING, K.DEMOTED): (P.FOLLOWING, M.FOLLOW),
    (P.SERVING, K.RULES_FAILED): (P.SERVING, M.RETRY),
    (P.SERVING, K.RULES_CHANGED): (P.SERVING, M.OPEN),
    (P.SERVING, K.SETTLED): (P.SERVING, M.ANNOUNCE),
    (P.SERVING, K.REFRESH_DUE): (P.SERVING, M.REFRESH),
    (P.SERVING, K.RETRY_DUE): (P.SERVING, M.OPEN),
    (P.SERVING, K.CONNTRACKD_STARTED): (P.SERVING, M.ANNOUNCE),
    (P.SERVING, K.COMMIT_OWED): (P.SERVING, M.WAIT),
    (P.SERVING, K.CONNTRACKD_ANSWERS): (P.SERVING, M.ANNOUNCE),
    (P.SERVING, K.STATES_LOST): (P.SERVING, M.REREAD),
    (P.SERVING, K.SPLIT_ENDED): (P.SERVING, M.REREAD),
    (P.SERVING, K.RULES_FIRST): (P.SERVING, M.OPEN),
    (P.FOLLOWING, K.HANDOVER_ANNOUNCED): (P.EXPECTING, M.EXPECT),
    (P.EXPECTING, K.PROMOTED): (P.PREPARING, M.PROMOTE),
    (P.EXPECTING, K.DEMOTED): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.RULES_FAILED): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.RULES_CHANGED): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.STATES_MISSED): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.CONNTRACKD_LOST): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.CONNTRACKD_STARTED): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.SPLIT_ENDED): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.RULES_FIRST): (P.FOLLOWING, M.FOLLOW),
    (P.EXPECTING, K.HANDOVER_OVER): (P.FOLLOWING, M.FOLLOW),
    (P.SERVING, K.HANDOVER_BEGUN): (P.HANDING, M.GIVE_UP),
    (P.HANDING, K.DEMOTED): (P.HANDING, M.STAND_BACK),
    (P.HANDING, K.PROMOTED): (P.PREPARING, M.PROMOTE),
    (P.HANDING, K.RULES_CHANGED): (P.HANDING, M.STAY_OPEN),
    (P.HANDING, K.HANDOVER_OVER): (P.FOLLOWING, M.FOLLOW),
    (P.HANDING, K.HANDOVER_FAILED): (P.SERVING, M.OPEN),
    (P.HOLDING, K.DEMOTED): (P.FOLLOWING, M.FOLLOW),
    (P.HOLDING, K.RULES_CHANGED): (P.HOLDING, M.HOLD),
    (P.HOLDING, K.RULES_FAILED): (P.HOLDING, M.RETRY),
    (P.HOLDING, K.RETRY_DUE): (P.PREPARING, M.PROMOTE),
}
"""All moves. An event that has no line here changes nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """`plan` replaces what is left of the running one; None lets that continue, () ends it."""

    state: State
    plan: Plan | None = None
    changes: tuple[ConditionChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Meaning:
    """All of an event that is known once the table is asked."""

    kind: EventKind
    at_ns: int
    retry_s: float
    """After how long what failed is tried again, where the move does that."""
    alarm: str
    """What is said of the states, where the move decides without them."""


@dataclass(frozen=True, slots=True)
class Move:
    """All that a plan may depend on, once a line of the table has chosen it. `at_ns`, `retry_s`: as in the
    meaning of the event."""

    settings: Settings
    before: Phase
    now: State
    at_ns: int
    retry_s: float


def step(settings: Settings, state: State, event: Event) -> Step:
    """One event, handled by the machine."""
    learned, changes = learn(state, event)
    meaning = _classify(settings, state, learned, event)
    if meaning is None:
        return Step(learned, None, changes)
    return _take_line(settings, learned, changes, meaning)


def _take_line(
    settings: Settings, learned: State, changes: tuple[ConditionChange, ...], meaning: Meaning
) -> Step:
    """What the table answers, and nothing else."""
    line = TRANSITIONS.get((learned.phase, meaning.kind))
    if line is None:
        return Step(learned, None, changes)
    phase, make = line
    now, more = _remember(settings, learned, meaning)
    plan = PLANS[make](Move(settings, learned.phase, now, meaning.at_ns, meaning.retry_s))
    return Step(_expect(replace(now, phase=phase), plan), plan, (*changes, *more))


def _remember(
    settings: Settings, learned: State, meaning: Meaning
) -> tuple[State, tuple[ConditionChange, ...]]:
    """What a move leaves in the memory beside its phase, and what it has to say."""
    match meaning.kind:
        case EventKind.PROMOTED | EventKind.RESUMED as kind:
            cache = settings.mode is SyncMode.CACHE
            owed = cache and (learned.owed or kind is EventKind.PROMOTED)
            return replace(learned, promoted_ns=meaning.at_ns, commits=0, flushed=False, owed=owed), ()
        case EventKind.DEMOTED:
            return replace(learned, owed=False), ()
        case EventKind.LIMIT_OPENS | EventKind.LIMIT_HOLDS:
            return note(learned, Condition.STATES, False, meaning.alarm)
        case EventKind.HANDOVER_BEGUN:
            return replace(learned, handover_ns=meaning.at_ns), ()
        case EventKind.STATES_LOST:
            return replace(learned, coverage=replace(learned.coverage, suspicions=0, asked=True)), ()
        case _:
            return learned, ()


def _expect(moved: State, plan: Plan | None) -> State:
    if plan is None:
        return moved
    commits = any(isinstance(action, CommitStates) and action.late for action in plan)
    return replace(moved, reading=ResyncKernel() in plan, committing=commits)


def _make_promote(move: Move) -> Plan:
    settings, now = move.settings, move.now
    remaining_s = settings.limit_s - (move.at_ns - now.promoted_ns) / 1e9
    if remaining_s <= 0:
        # holding: the limit is over, every further try gets as long again
        remaining_s = settings.limit_s
    return plans.plan_promote(
        settings,
        now.loaded,
        whole=now.whole,
        remaining_s=remaining_s,
        marked=now.marked,
        standing=now.standing,
    )


def _make_follow(move: Move) -> Plan:
    served = move.before in (Phase.SERVING, Phase.PREPARING, Phase.HOLDING, Phase.HANDING)
    now = move.now
    return plans.plan_follow(
        move.settings,
        now.role,
        whole=now.whole,
        served=served,
        marked=now.marked,
        standing=now.standing,
    )


def _make_open(move: Move) -> Plan:
    now = move.now
    return plans.plan_open(
        move.settings, whole=now.whole, owed=now.owed, marked=now.marked, standing=now.standing
    )


def _make_announce(move: Move) -> Plan:
    now = move.now
    return plans.plan_announce(move.settings, flushed=now.flushed, owed=now.owed, marked=now.marked)


def _make_not_ready(move: Move) -> Plan:
    asked_s = (move.at_ns - move.now.asked_ns) / 1e9
    return plans.plan_not_ready(plans.catch_up_after_s(move.settings, move.now.kernel, asked_s))


def _handover_s(move: Move) -> float:
    return (move.at_ns - move.now.handover_ns) / 1e9


def _make_stay_open(move: Move) -> Plan:
    return plans.plan_stay_open(move.settings, whole=move.now.whole, past_s=_handover_s(move))


PLANS: dict[Make, Callable[[Move], Plan | None]] = {
    Make.START: lambda _: plans.plan_start(),
    Make.PROMOTE: _make_promote,
    Make.FOLLOW: _make_follow,
    Make.OPEN: _make_open,
    Make.HOLD: lambda _: plans.plan_hold(),
    Make.RETRY: lambda move: plans.plan_retry(move.retry_s),
    Make.ANNOUNCE: _make_announce,
    Make.CATCH_UP: lambda move: plans.plan_catch_up(move.settings, unclean=move.now.unclean),
    Make.READY: lambda move: plans.plan_compared(move.now.kernel),
    Make.COMPARE: lambda move: plans.plan_compare(move.now.kernel),
    Make.COMPARE_SOON: lambda _: plans.plan_compare_soon(),
    Make.NOT_READY: _make_not_ready,
    Make.REFRESH: lambda move: plans.plan_refresh(move.settings, move.now.kernel, move.now.touched),
    Make.REREAD: lambda move: plans.plan_reread(move.settings),
    # what is left of the plan would empty the cache
    Make.WAIT: lambda _: (),
    Make.EXPECT: lambda move: plans.plan_expect(move.settings, whole=move.now.whole),
    Make.GIVE_UP: lambda move: plans.plan_give_up(move.settings),
    Make.STAND_BACK: lambda move: plans.plan_stand_back(move.settings, _handover_s(move)),
    Make.STAY_OPEN: _make_stay_open,
    Make.NOTHING: lambda _: None,
}


def _classify(settings: Settings, state: State, learned: State, event: Event) -> Meaning | None:
    kind = _read(settings, state, learned, event)
    if kind is None:
        return None
    in_force = learned.whole and learned.loaded is learned.wanted
    if kind in _CAN_WAIT and not in_force:
        kind = EventKind.RULES_FIRST
    return Meaning(kind, event.at_ns, _retry_after_s(event), _limit_text(settings, state, kind, event))


def _retry_after_s(event: Event) -> float:
    """A commit that conntrackd skipped ends soon; a rule set that nft refused does not repair itself."""
    return plans.SKIPPED_COMMIT_RETRY_S if isinstance(event, ActionDone) else plans.RETRY_AFTER_S


def _limit_text(settings: Settings, state: State, kind: EventKind, event: Event) -> str:
    if kind not in (EventKind.LIMIT_OPENS, EventKind.LIMIT_HOLDS):
        return ""
    what = "opens without them" if kind is EventKind.LIMIT_OPENS else "stays closed"
    if isinstance(event, ActionFailed) and not _limit_is_over(settings, state, event.at_ns):
        return f"the states are not available ({event.reason}); the gate {what}, as gate.then says"
    return f"the states were not usable within {settings.limit_s:g} s; the gate {what}, as gate.then says"


_CAN_WAIT = {
    EventKind.CONNTRACKD_ANSWERS,
    EventKind.SETTLED,
    EventKind.REFRESH_DUE,
    EventKind.COMPARE_DUE,
    EventKind.CATCH_UP_FAILED,
    EventKind.STATES_MISSED,
    EventKind.CONNTRACKD_LOST,
    EventKind.CONNTRACKD_STARTED,
    EventKind.STATES_LOST,
    EventKind.SPLIT_ENDED,
}
"""Of these only a later failover needs what they bring about."""


def _read(settings: Settings, state: State, learned: State, event: Event) -> EventKind | None:
    match event:
        case Started():
            return EventKind.FOUND_OPEN if event.loaded is RuleSet.PRIMARY else EventKind.STARTED
        case RoleSeen():
            return _classify_role(state, event.role)
        case RulesChanged() if is_stale(state, event):
            return None
        case RulesChanged() | Reloaded():
            return EventKind.RULES_CHANGED
        case ConntrackdAsked():
            if event.answer is not QueryResult.OK:
                return EventKind.CONNTRACKD_LOST
            # it answers in the middle of a commit as well, which is not begun again then
            return EventKind.CONNTRACKD_ANSWERS if state.owed and not state.committing else None
        case ConntrackdStarted():
            return EventKind.CONNTRACKD_STARTED
        case StatesCounted():
            return EventKind.STATES_LOST if wants_reread(learned.coverage, event.at_ns) else None
        case SplitEnded():
            # a commit that is owed comes first; all is read and sent after it
            keeps = state.role is Role.PRIMARY and not state.owed
            return EventKind.SPLIT_ENDED if keeps or state.role is Role.BACKUP else None
        case HandoverAnnounced():
            return EventKind.HANDOVER_ANNOUNCED if can_expect(settings, learned) else None
        case HandoverBegun():
            return EventKind.HANDOVER_BEGUN
        case HandoverEnded() | TimerFired(timer=Timer.HANDOVER):
            primary = learned.role is Role.PRIMARY
            return EventKind.HANDOVER_FAILED if primary else EventKind.HANDOVER_OVER
        case ActionFailed(action=SetStanding(standing=Standing.GIVES_UP)):
            return EventKind.HANDOVER_FAILED
        case TimerFired(timer=Timer.SETTLE) if state.role not in (Role.PRIMARY, Role.BACKUP):
            return None
        case TimerFired(timer=Timer.REFRESH) if state.reading:
            return None
        case TimerFired(timer=Timer.COMPARE) if not state.ready:
            return None  # a catch-up is to come, and compares
        case TimerFired():
            return _OF_TIMER[event.timer]
        case ActionDone(action=SwitchRules() | LoadRules() as action) if action.rules is RuleSet.PRIMARY:
            return EventKind.OPENED
        case ActionDone(action=CommitStates(late=True), outcome=Committed() as outcome):
            return EventKind.COMMIT_OWED if outcome.skipped else None
        case ActionFailed(action=CommitStates(late=True)):
            return EventKind.COMMIT_OWED
        case ActionDone(action=CompareStates() as action, outcome=Compared() as outcome) if outcome.asked:
            if not outcome.whole:
                return EventKind.CATCH_UP_FAILED
            return None if action.routine else EventKind.COMPARED
        case ActionDone(action=CompareStates(routine=True), outcome=Compared()):
            return EventKind.NOT_COMPARED
        case ActionFailed(action=CompareStates(routine=False)):
            # what could be asked and was not answered is not made good by a stream that nobody counts
            return EventKind.CATCH_UP_FAILED
        case ActionDone(action=AwaitStates()) if (
            learned.emptied or Condition.REPLICATION in learned.problems
        ):
            return EventKind.CATCH_UP_FAILED
        case ConditionSeen(condition=Condition.REPLICATION, ok=False):
            return EventKind.STATES_MISSED if state.ready else None
        case ActionDone(action=CommitStates(), outcome=Committed() as outcome):
            return None if outcome.complete else _classify_short(settings, state, event.at_ns, outcome)
        case ActionFailed(action=SwitchRules() | LoadRules() | VerifyRules()):
            return EventKind.RULES_FAILED
        case ActionFailed(action=CommitStates()):
            over = _limit_is_over(settings, state, event.at_ns)
            return EventKind.COMMIT_SHORT if event.retryable and not over else _of_limit(settings)
        case ActionFailed(action=StartClean() | RequestResync() | AwaitStates()):
            return EventKind.CATCH_UP_FAILED
        case _:
            return None


_OF_TIMER = {
    Timer.SETTLE: EventKind.SETTLED,
    Timer.REFRESH: EventKind.REFRESH_DUE,
    Timer.COMPARE: EventKind.COMPARE_DUE,
    Timer.RETRY: EventKind.RETRY_DUE,
}


def _classify_role(state: State, role: Role) -> EventKind | None:
    if role is Role.PRIMARY:
        if state.role is Role.PRIMARY:
            return None
        return EventKind.RESUMED if state.phase is Phase.RESUMING else EventKind.PROMOTED
    return None if role is state.role or role is Role.UNKNOWN else EventKind.DEMOTED


def _classify_short(settings: Settings, state: State, at_ns: int, outcome: Committed) -> EventKind:
    if _limit_is_over(settings, state, at_ns):
        return _of_limit(settings)
    if outcome.skipped or state.commits + 1 < MAX_COMMITS:
        return EventKind.COMMIT_SHORT
    return EventKind.COMMIT_POOR


def _limit_is_over(settings: Settings, state: State, at_ns: int) -> bool:
    return (at_ns - state.promoted_ns) / 1e9 >= settings.limit_s


def _of_limit(settings: Settings) -> EventKind:
    return EventKind.LIMIT_OPENS if settings.then is AfterLimit.OPEN else EventKind.LIMIT_HOLDS
