# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be done. Every action can be repeated safely and says in words what it does.

`abandonable`: a newer observation need not wait for it. The request is already with the daemon, or is only a
look, so nothing is cut off; only the waiting ends. Rules and commits are never left in the middle.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from agent.core.roles import RuleSet, Standing


class Timer(Enum):
    SETTLE = "settle"
    """The role has been the same for a while: do now what did not have to be done at once."""
    REFRESH = "refresh"
    """The primary sends its states again (direct mode)."""
    COMPARE = "compare"
    """A backup that has the states compares them again."""
    RETRY = "retry"
    """An action that failed is tried again."""
    HANDOVER = "handover"
    """A handover is over, whatever became of it."""


@dataclass(frozen=True, slots=True)
class LoadRules:
    """The whole table, in one transaction."""

    rules: RuleSet
    abandonable: ClassVar[bool] = False

    def describe(self) -> str:
        return f"load the {self.rules.value} rules, all in one transaction, and read them back"


@dataclass(frozen=True, slots=True)
class SwitchRules:
    """What closes the gate comes or goes, in one small transaction; the rules must be loaded already."""

    rules: RuleSet
    abandonable: ClassVar[bool] = False

    def describe(self) -> str:
        gate = "open" if self.rules is RuleSet.PRIMARY else "close"
        return f"{gate} the gate and switch to the {self.rules.value} rules, in one transaction"


@dataclass(frozen=True, slots=True)
class CompleteExpectations:
    """Before the gate opens, so the packets wait for it. A few are done at once; there are more only where a
    client makes thousands."""

    limit_s: float
    abandonable: ClassVar[bool] = False

    def describe(self) -> str:
        return (
            "give announced connections (FTP and the like) the translation that conntrackd leaves out "
            f"(at most {self.limit_s * 1000:g} ms)"
        )


@dataclass(frozen=True, slots=True)
class CompleteRemaining:
    """What CompleteExpectations had no time for. What a backup completes would be replicated back over what
    is right there, so it ends with the role."""

    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "give the remaining announced connections their translation"


@dataclass(frozen=True, slots=True)
class VerifyRules:
    """The larger the table, the longer it takes (100,000 addresses: a second). Nothing waits for it."""

    rules: RuleSet
    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return f"read the rules back and compare them with the {self.rules.value} rules"


@dataclass(frozen=True, slots=True)
class CommitStates:
    """conntrackd -c: external caches (states and expectations) into the kernel; `timeout_s` bounds the
    waiting. `late`: the gate is open already, and its closing must not wait for this."""

    timeout_s: float
    late: bool = False

    @property
    def abandonable(self) -> bool:
        return self.late

    def describe(self) -> str:
        return (
            f"conntrackd -c: bring the peer's states and expectations into the kernel, "
            f"compare committed with expected (at most {self.timeout_s:g} s)"
        )


@dataclass(frozen=True, slots=True)
class FlushCaches:
    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "conntrackd -f: empty conntrackd's caches (not the kernel)"


@dataclass(frozen=True, slots=True)
class ResyncKernel:
    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "conntrackd -R: read the kernel's states into the internal cache"


@dataclass(frozen=True, slots=True)
class SendBulk:
    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "conntrackd -B: send all states to the peer"


@dataclass(frozen=True, slots=True)
class RefreshStates:
    """The regular one, which belongs to no transition: see agent/core/refresh.py."""

    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "report the states again that would run out on the backup"


@dataclass(frozen=True, slots=True)
class StartClean:
    """In one action, since the order counts: what conntrackd still has in its cache when the kernel deletes
    it is deleted on the peer as well."""

    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "conntrackd -f, then -F: empty conntrackd's caches, then delete the forwarded states here"


@dataclass(frozen=True, slots=True)
class CompareStates:
    """Where the other node's agent is heard and is primary. `routine`: of a backup that is ready, which
    belongs to no transition."""

    routine: bool = False
    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "compare the states with the primary's, and get what is missing"


@dataclass(frozen=True, slots=True)
class RequestResync:
    """Where nobody could be asked by CompareStates."""

    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "conntrackd -n: ask the peer for all its states"


@dataclass(frozen=True, slots=True)
class AwaitStates:
    """Wait until the peer's states have stopped streaming in; a silent peer is waited for `timeout_s` at
    most."""

    timeout_s: float
    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return f"wait until the peer's states are here (at most {self.timeout_s:g} s)"


@dataclass(frozen=True, slots=True)
class ShortenTimers:
    """Cache mode only: in direct mode conntrackd -t would wipe the replicated states."""

    abandonable: ClassVar[bool] = True

    def describe(self) -> str:
        return "conntrackd -t: let the states of the past role run out"


@dataclass(frozen=True, slots=True)
class SetReadiness:
    """Report to keepalived (track_file) whether this node has the states that a primary needs."""

    ready: bool
    abandonable: ClassVar[bool] = False

    def describe(self) -> str:
        return f"report the states to keepalived as {'ready' if self.ready else 'missing'}"


@dataclass(frozen=True, slots=True)
class SetStanding:
    """Tell keepalived, by the same file, whether it may keep or get the addresses."""

    standing: Standing
    abandonable: ClassVar[bool] = False

    def describe(self) -> str:
        return _OF_STANDING[self.standing]


@dataclass(frozen=True, slots=True)
class MarkOwed:
    """For the next agent, which finds the gate open and knows nothing else: whether a commit is owed."""

    owed: bool
    abandonable: ClassVar[bool] = False

    def describe(self) -> str:
        return (
            "note for the next agent that a commit is owed" if self.owed else "note that no commit is owed"
        )


@dataclass(frozen=True, slots=True)
class SetTimer:
    timer: Timer
    after_s: float
    abandonable: ClassVar[bool] = False

    def describe(self) -> str:
        return f"come back in {self.after_s:g} s to {_PURPOSE[self.timer]}"


_PURPOSE = {
    Timer.SETTLE: "do the deferred work, if the role is still the same",
    Timer.REFRESH: "report states again that would run out",
    Timer.COMPARE: "compare the states again",
    Timer.RETRY: "try again",
    Timer.HANDOVER: "end the handover",
}

_OF_STANDING = {
    Standing.TAKES_PART: "let keepalived take part in the election, as the pair file says",
    Standing.GIVES_UP: "make keepalived give up the virtual addresses",
    Standing.STANDS_BACK: "let keepalived take part in the election, behind the peer",
}

AtOnce = CompleteExpectations | LoadRules | SwitchRules | SetReadiness | SetStanding | MarkOwed
"""Done within the call: microseconds to milliseconds."""

AskedOfConntrackd = (
    CommitStates
    | FlushCaches
    | ResyncKernel
    | SendBulk
    | StartClean
    | RequestResync
    | AwaitStates
    | ShortenTimers
)
Asked = AskedOfConntrackd | RefreshStates | CompareStates | CompleteRemaining | VerifyRules
"""Asked of conntrackd, which takes its time, or done beside the loop."""

Action = AtOnce | Asked | SetTimer

Plan = tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did, from conntrackd's own account. `skipped`: conntrackd did not start it at all."""

    expected: int
    committed: int
    failed: int
    skipped: bool
    evidence: str

    @property
    def complete(self) -> bool:
        return not self.skipped and self.failed == 0 and self.committed >= self.expected


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How many states were reported again."""

    touched: int


@dataclass(frozen=True, slots=True)
class Reread:
    """How many states the internal cache had before and after it was read again, and the kernel after."""

    before: int
    after: int
    kernel: int


@dataclass(frozen=True, slots=True)
class StatesIn:
    """`states` have come in; `peer_heard` is False when nothing came from the peer at all. `losses`: what
    could not be taken of it, in words, empty when all could."""

    states: int
    peer_heard: bool
    losses: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """How many states the primary listed, and how often the backup's were compared with them. `touched`: the
    primary has sent so many again. `missing`: so many are still not here. `ended`: so many that only the
    backup had were deleted. `losses`: what could not be taken
    of what came meanwhile, in words, empty when all could. `reason`: why nobody could be asked; empty when
    the primary was."""

    states: int = 0
    rounds: int = 0
    touched: int = 0
    missing: int = 0
    losses: str = ""
    reason: str = ""
    ended: int = 0

    @property
    def asked(self) -> bool:
        return not self.reason

    @property
    def whole(self) -> bool:
        return self.asked and not self.missing and not self.losses


@dataclass(frozen=True, slots=True)
class Completed:
    """How many expectations have got a translation that they lacked; `all_seen` is False when time was over
    before the last one."""

    expectations: int
    all_seen: bool


Outcome = Committed | Compared | Completed | Refreshed | Reread | StatesIn
