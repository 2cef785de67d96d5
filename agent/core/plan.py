# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans: what to do for a role, as actions in an order that is safe to cut after any of them.

The gate decides what happens to a packet, so rules come first when a role is lost and states come first when
it is won. What peers or later failovers need, but no packet waits for, comes after the timer SETTLE: a link
that flaps ten times a second must not make conntrackd read or send its whole table ten times a second.
"""

from dataclasses import dataclass

from agent.core import refresh
from agent.core.actions import (
    Action,
    AwaitStates,
    CommitStates,
    CompareStates,
    CompleteExpectations,
    CompleteRemaining,
    FlushCaches,
    LoadRules,
    MarkOwed,
    Plan,
    RefreshStates,
    RequestResync,
    ResyncKernel,
    SendBulk,
    SetReadiness,
    SetStanding,
    SetTimer,
    ShortenTimers,
    StartClean,
    SwitchRules,
    Timer,
    VerifyRules,
)
from agent.core.comparison import compare_after_s
from agent.core.roles import Role, RuleSet, Standing
from agent.model.pair import AfterLimit, Drift, Pair, SyncMode

SETTLE_AFTER_S = 1.0
RETRY_AFTER_S = 1.0
SKIPPED_COMMIT_RETRY_S = 0.05
AWAIT_STATES_S = 30.0
LATE_COMMIT_S = 300.0
"""Nothing waits for it; a million states that the kernel has already take most of a minute."""
CATCH_UP_AGAIN_S = 30.0
CATCH_UP_SOON_S = 2.0
COMPARE_SOON_S = 5.0
EXPECTATIONS_LIMIT_S = 0.01
"""There are a few of them, unless a client makes thousands."""

TAKEOVER_ADVERTS = 4.0
"""keepalived waits for three advertisements and its skew before it takes over by itself."""
HANDOVER_MARGIN_S = 3.0
"""What a handover may take beyond that: words between the agents, and the moment in which the network learns
where the addresses are."""

BULK_COST_S = 30e-6
"""What one state of a bulk costs the backup's processor: its conntrackd deletes the state and makes it
again."""
BULK_SHARE = 0.05
"""How much of one processor the bulks that it asks for may take on the backup."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the core needs of the pair file and of the kernel. `shortest_timeout_s`: of the replicated
    states."""

    mode: SyncMode = SyncMode.DIRECT
    limit_s: float = 10.0
    then: AfterLimit = AfterLimit.OPEN
    refresh_s: float | None = None
    shortest_timeout_s: float = 30.0
    repair: bool = True
    """Whether external changes of the rules are repaired at once, or only reported."""
    helpers: bool = False
    """Whether connections announce further ones, so that expectations are replicated."""
    takeover_s: float = 0.4
    """How long keepalived waits at the most before it takes over."""
    preempt: bool = False
    """Whether keepalived takes over from a primary of a lower priority."""

    @classmethod
    def of(cls, pair: Pair, shortest_timeout_s: float) -> "Settings":
        return cls(
            pair.sync.mode,
            pair.gate.limit_s,
            pair.gate.then,
            pair.sync.refresh_s,
            shortest_timeout_s,
            repair=pair.drift is not Drift.REPORT,
            helpers=bool(pair.helpers),
            takeover_s=TAKEOVER_ADVERTS * pair.failover.advert_interval_ms / 1000,
            preempt=pair.failover.preempt,
        )


def refresh_after_s(settings: Settings, kernel: int, touched: int) -> float:
    """How long the primary waits until it reports states again, see agent/core/refresh.py."""
    if settings.refresh_s is not None:
        return settings.refresh_s
    return refresh.period_s(settings.shortest_timeout_s, kernel, touched)


def put_rules(rules: RuleSet, *, whole: bool) -> Action:
    """`whole`: our table is known to be in the kernel as we made it, so switching is enough."""
    return SwitchRules(rules) if whole else LoadRules(rules)


def plan_verify(settings: Settings, rules: RuleSet) -> Plan:
    """What differs is repaired. Where it is only to be reported, the look that follows every change of rules
    reports it."""
    return (VerifyRules(rules),) if settings.repair else ()


def plan_start() -> Plan:
    """Before anything is known: closed, and not ready to be a primary in the place of one that is."""
    return (LoadRules(RuleSet.BACKUP), SetReadiness(ready=False))


def plan_promote(
    settings: Settings,
    loaded: RuleSet | None,
    *,
    whole: bool,
    remaining_s: float,
    marked: bool,
    standing: Standing = Standing.TAKES_PART,
) -> Plan:
    """In cache mode a gate that is still open, because its closing was cut off, is closed before the
    commit."""
    if settings.mode is SyncMode.DIRECT:
        return plan_open(settings, whole=whole, marked=marked, standing=standing)
    closed = whole and loaded is RuleSet.BACKUP
    close: Plan = () if closed else (put_rules(RuleSet.BACKUP, whole=whole),)
    opening = plan_open(settings, whole=True, marked=marked)
    return (*_take_part(standing), *close, CommitStates(remaining_s), *opening)


def plan_open(
    settings: Settings,
    *,
    whole: bool,
    marked: bool,
    owed: bool = False,
    standing: Standing = Standing.TAKES_PART,
) -> Plan:
    """Open the gate now.

    In cache mode the external cache is emptied at once: a second commit of the same states would put old
    ones over live ones. Unless a commit is `owed`: then it has states that the kernel never got, and the
    next agent, which finds the gate open, must know that. The plan serves as well for a primary whose rules
    must be made again. `standing`: what keepalived was last made to do; a primary takes part.
    """
    owed = owed and settings.mode is SyncMode.CACHE
    mark: Plan = (MarkOwed(owed=True),) if owed and not marked else ()
    unmark: Plan = () if owed else plan_unmark(marked=marked)
    complete: Plan = (CompleteExpectations(EXPECTATIONS_LIMIT_S),) if settings.helpers else ()
    remaining: Plan = (CompleteRemaining(),) if settings.helpers else ()
    open_gate = put_rules(RuleSet.PRIMARY, whole=whole)
    flush: Plan = (FlushCaches(),) if settings.mode is SyncMode.CACHE and not owed else ()
    verify = plan_verify(settings, RuleSet.PRIMARY)
    settle = SetTimer(Timer.SETTLE, SETTLE_AFTER_S)
    return (
        *_take_part(standing),
        *mark,
        *complete,
        open_gate,
        settle,
        *unmark,
        *remaining,
        *flush,
        *verify,
    )


def _take_part(standing: Standing) -> Plan:
    """Before the gate: where the rules cannot be put in force, the rest of the plan is left out, and the
    fault of a handover would stay."""
    return () if standing is Standing.TAKES_PART else (SetStanding(Standing.TAKES_PART),)


def plan_unmark(*, marked: bool) -> Plan:
    """`marked`: the next agent would take it that a commit is owed."""
    return (MarkOwed(owed=False),) if marked else ()


def plan_announce(settings: Settings, *, flushed: bool, marked: bool, owed: bool) -> Plan:
    """A settled primary: conntrackd knows all states and so does the peer.

    A commit that is `owed` is made now: it puts old states over new ones, of which there are few,
    since connections do not pass without the translation of their old one.
    """
    direct = settings.mode is SyncMode.DIRECT
    commit: Plan = (CommitStates(LATE_COMMIT_S, late=True),) if owed and not direct else ()
    flush: Plan = () if direct or flushed else (FlushCaches(),)
    unmark = plan_unmark(marked=marked)
    return (SetReadiness(ready=True), *commit, *unmark, *flush, *plan_reread(settings))


def plan_refresh(settings: Settings, kernel: int, touched: int) -> Plan:
    """The timer comes last: whatever cuts this off sends all."""
    return (RefreshStates(), SetTimer(Timer.REFRESH, refresh_after_s(settings, kernel, touched)))


def plan_reread(settings: Settings) -> Plan:
    """A primary whose conntrackd does not know all of the kernel's states.

    The timer comes last: a refresh that falls due while conntrackd reads is left out, since all is sent just
    after.
    """
    direct = settings.mode is SyncMode.DIRECT
    again: Plan = (SetTimer(Timer.REFRESH, refresh_after_s(settings, 0, 0)),) if direct else ()
    return (ResyncKernel(), SendBulk(), *again)


def plan_follow(
    settings: Settings,
    role: Role,
    *,
    whole: bool,
    served: bool,
    marked: bool,
    standing: Standing = Standing.TAKES_PART,
) -> Plan:
    """`served`: this node was primary until now, so its kernel has states that only the past role needed.
    `standing`: what keepalived was last made to do; a handover that is cut off may leave a fault."""
    shorten: Plan = (ShortenTimers(),) if served and settings.mode is SyncMode.CACHE else ()
    settle: Plan = (SetTimer(Timer.SETTLE, SETTLE_AFTER_S),) if role is Role.BACKUP else ()
    close_gate = put_rules(RuleSet.BACKUP, whole=whole)
    stand = _end_fault(settings, standing)
    unmark = plan_unmark(marked=marked)
    return (*stand, close_gate, *settle, *unmark, *plan_verify(settings, RuleSet.BACKUP), *shorten)


def plan_hold() -> Plan:
    """The closed gate again, and another try for the states."""
    return (LoadRules(RuleSet.BACKUP), SetTimer(Timer.RETRY, RETRY_AFTER_S))


def plan_catch_up(settings: Settings, *, unclean: bool) -> Plan:
    """A settled backup: get the peer's states, and say when they are in. What follows CompareStates is for
    where nobody could be asked; a comparison that is whole makes plan_compared() of it, and any other
    plan_not_ready().

    `unclean`: some that are here were made while both nodes were primary. The node that has stayed primary
    does not know them, or has others in their place, and when one of them ends here, conntrackd would end
    that of the peer."""
    # the end of a copy that conntrackd had in its internal cache would end the state on the primary
    flush: Plan = (FlushCaches(),) if settings.mode is SyncMode.DIRECT else ()
    clean: Plan = (SetReadiness(ready=False), StartClean()) if unclean else flush
    stream = (RequestResync(), AwaitStates(AWAIT_STATES_S), SetReadiness(ready=True))
    again: Plan = plan_compare_soon() if settings.mode is SyncMode.DIRECT else ()
    return (*clean, CompareStates(), *stream, *again)


def plan_compared(states: int) -> Plan:
    return (SetReadiness(ready=True), SetTimer(Timer.COMPARE, compare_after_s(states)))


def plan_compare_soon() -> Plan:
    """Nobody could be asked: as soon as the primary's agent is heard it is."""
    return (SetTimer(Timer.COMPARE, COMPARE_SOON_S),)


def plan_compare(states: int) -> Plan:
    """A ready backup, from time to time."""
    return (SetTimer(Timer.COMPARE, compare_after_s(states)), CompareStates(routine=True))


def plan_not_ready(again_s: float) -> Plan:
    """A backup that does not get the peer's states should not be preferred as primary; it asks again
    later."""
    return (SetReadiness(ready=False), SetTimer(Timer.RETRY, again_s))


def catch_up_after_s(settings: Settings, states: int, asked_s: float) -> float:
    """When to ask the peer for all its states again, having asked `asked_s` ago.

    Soon the first time. What is lost again is lost because there is more than this node can take, and asking
    adds to that: so it is asked for no oftener than its share of a processor allows. In cache mode states
    only go into a cache.
    """
    bulk_s = states * BULK_COST_S / BULK_SHARE if settings.mode is SyncMode.DIRECT else 0.0
    return max(CATCH_UP_SOON_S, CATCH_UP_AGAIN_S - asked_s, bulk_s - asked_s)


def plan_expect(settings: Settings, *, whole: bool) -> Plan:
    """A backup to which the primary hands over: its gate is open before the first packet comes. Expectations
    are completed when it is primary; before, that would be replicated over what is right there. The timer
    first: it closes the gate again if nothing comes of it."""
    return (_handover_timer(settings), put_rules(RuleSet.PRIMARY, whole=whole))


def plan_give_up(settings: Settings) -> Plan:
    """A primary to whose peer everything may go."""
    return (_handover_timer(settings), SetStanding(Standing.GIVES_UP))


def plan_stay_open(settings: Settings, *, whole: bool, past_s: float) -> Plan:
    """The rules were changed in the middle of a handover, `past_s` after it began."""
    return (_handover_timer(settings, past_s), put_rules(RuleSet.PRIMARY, whole=whole))


def _handover_timer(settings: Settings, past_s: float = 0.0) -> SetTimer:
    """What is left of its time: a role that flaps, or rules that change again and again, hold no gate open
    beyond that."""
    return SetTimer(Timer.HANDOVER, max(0.0, settings.takeover_s + HANDOVER_MARGIN_S - past_s))


def plan_stand_back(settings: Settings, past_s: float) -> Plan:
    """The addresses are given up. keepalived waits for the peer from now on, longer than the peer needs to
    take over, and takes them back by itself if none does, also without an agent. In a pair with `preempt` it
    would do so in any case, but for the lower priority. The timer again: the plan before may have been cut
    off."""
    return (_handover_timer(settings, past_s), *_stand_again(settings))


def plan_end(settings: Settings, role: Role, *, whole: bool, standing: Standing) -> Plan:
    """The agent ends in the middle of a handover, and no timer of it fires any more."""
    close: Plan = () if role is Role.PRIMARY else (put_rules(RuleSet.BACKUP, whole=whole),)
    return (*_end_fault(settings, standing), *close)


def _end_fault(settings: Settings, standing: Standing) -> Plan:
    return _stand_again(settings) if standing is Standing.GIVES_UP else ()


def _stand_again(settings: Settings) -> Plan:
    return (SetStanding(Standing.STANDS_BACK if settings.preempt else Standing.TAKES_PART),)


def plan_retry(after_s: float = RETRY_AFTER_S) -> Plan:
    return (SetTimer(Timer.RETRY, after_s),)
