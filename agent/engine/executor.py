"""Carries out actions: each by the one adapter that knows how. Decides nothing."""

import math
import threading
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Protocol, TypeVar

from agent.core.actions import (
    Asked,
    AtOnce,
    AwaitStates,
    CommitStates,
    Completed,
    CompleteExpectations,
    CompleteRemaining,
    FlushCaches,
    LoadRules,
    Outcome,
    RequestResync,
    ResyncKernel,
    SendBulk,
    SetReadiness,
    ShortenTimers,
    SwitchRules,
    VerifyRules,
)
from agent.core.roles import RuleSet
from agent.errors import HafwError, OvertakenError, ToolError
from agent.regular_file import UnfitFileError, read_regular, replace_file
from agent.rules.holes import Hole

MOST_READINESS = 32


class Verified(Protocol):
    @property
    def drift(self) -> str | None: ...


Found = TypeVar("Found")
Complete = Callable[[float, Callable[[], bool]], Completed]
"""Of expectations, in so many seconds and until it is to stop. Raises HafwError."""


class Beside(Protocol):
    """Carries out what takes its time, without holding up the loop."""

    def __call__(self, job: Callable[[], Found], /) -> Awaitable[Found]: ...


class RulesAdapter(Protocol):
    """`verify` may run in another thread than the others."""

    def load(self, rules: RuleSet) -> object: ...
    def flip(self, rules: RuleSet) -> None: ...
    def close(self, holes: Collection[Hole]) -> frozenset[Hole]: ...
    def verify(self, rules: RuleSet) -> Verified: ...


class StatesAdapter(Protocol):
    async def commit(self, timeout_s: float) -> Outcome: ...
    async def flush_caches(self) -> None: ...
    async def resync_kernel(self) -> Outcome: ...
    async def send_bulk(self) -> Outcome: ...
    async def request_resync(self) -> None: ...
    async def shorten_timers(self) -> None: ...
    async def await_states(self, timeout_s: float) -> Outcome: ...


async def in_place(job: Callable[[], Found]) -> Found:
    return job()


class Hands:
    def __init__(
        self,
        rules: RulesAdapter,
        states: StatesAdapter,
        readiness: Path,
        not_ready: int,
        complete: Complete,
        beside: Beside = in_place,
    ) -> None:
        """`not_ready`: what keepalived adds to the priority while the states are not in (its track_file)."""
        self.rules = rules
        self._beside = beside
        self._states = states
        self._readiness = readiness
        self._not_ready = not_ready
        self._complete = complete

    def do(self, action: AtOnce) -> Outcome | None:
        """Raises HafwError; what was in force stays in force then."""
        match action:
            case CompleteExpectations():
                return self._complete(action.limit_s, lambda: False)
            case LoadRules():
                self.rules.load(action.rules)
            case SwitchRules():
                self.rules.flip(action.rules)
            case SetReadiness():
                write_readiness(self._readiness, 0 if action.ready else self._not_ready)
        return None

    def close(self, holes: Collection[Hole]) -> frozenset[Hole]:
        """Those of `holes` that were open until now. Raises HafwError."""
        return self.rules.close(holes)

    def restore_readiness(self, ready: bool) -> str | None:
        """Writes it anew where somebody else has changed it, and says so. Raises HafwError."""
        wanted = 0 if ready else self._not_ready
        try:
            found = read_regular(self._readiness, MOST_READINESS).decode(errors="replace").strip()
        except UnfitFileError as error:
            words = error.reason
        else:
            if found == str(wanted):
                return None
            words = f"said {found!r}"
        write_readiness(self._readiness, wanted)
        return f"{self._readiness} {words}; keepalived chooses the primary by it, so it says {wanted} again"

    async def ask(self, action: Asked) -> Outcome | None:
        """Raises HafwError."""
        match action:
            case CommitStates():
                return await self._states.commit(action.timeout_s)
            case SendBulk():
                return await self._states.send_bulk()
            case AwaitStates():
                return await self._states.await_states(action.timeout_s)
            case ResyncKernel():
                return await self._states.resync_kernel()
            case FlushCaches():
                await self._states.flush_caches()
            case RequestResync():
                await self._states.request_resync()
            case ShortenTimers():
                await self._states.shorten_timers()
            case CompleteRemaining():
                return await self._complete_remaining()
            case VerifyRules():
                await self._verify(action.rules)
        return None

    async def _complete_remaining(self) -> Completed:
        stop = threading.Event()
        try:
            return await self._beside(lambda: self._complete(math.inf, stop.is_set))
        finally:
            stop.set()

    async def find_drift(self, rules: RuleSet) -> str | None:
        """What differs from what was loaded and from `rules`. Raises HafwError; OvertakenError when it was
        changed meanwhile by load() or flip()."""
        adapter = self.rules
        return (await self._beside(lambda: adapter.verify(rules))).drift

    async def _verify(self, rules: RuleSet) -> None:
        try:
            drift = await self.find_drift(rules)
        except OvertakenError:
            return  # by a newer plan, which has a look of its own
        if drift is not None:
            raise ToolError(("nft",), drift, retryable=True)


def write_readiness(path: Path, number: int) -> None:
    """By rename, which keepalived sees: it would take an empty file, half written, for "ready"."""
    try:
        replace_file(path, f"{number}\n", 0o644)
    except OSError as error:
        raise HafwError(f"cannot tell keepalived of readiness in {path}: {error.strerror}") from error
