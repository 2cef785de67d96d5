# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes that compare their states, each with a table in memory, and what is said between them lost,
late or refused."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agent.adapters.conntrackd import Statistics
from agent.core.actions import Compared
from agent.core.census import Census, Difference, compare, pack_hashes, unpack_hashes
from agent.core.comparison import LIST_BYTES, MAX_ROUNDS, AskStates, StatesMessage, StatesPart
from agent.core.peer import EVERY, NodeStatus
from agent.core.replication import Losses
from agent.core.roles import Role
from agent.core.state import Phase, State
from agent.engine import comparison
from agent.engine.comparison import ComparedWith, Comparison
from agent.errors import HafwError, UnavailableError

LIMIT_S = 20.0
MANY = 3 * LIST_BYTES // 8


class Table:
    """A kernel's states; what is touched appears in `replica`."""

    def __init__(self, *states: int) -> None:
        self.states = set(states)
        self.replica: Table | None = None
        self.lossy = 0
        """How many of the next touches are lost."""
        self.held = asyncio.Event()
        self.held.set()
        self.error = ""
        self.lists, self.ends_after_s = 0, 0.0
        self.at_work = self.most_at_work = 0

    async def list(self) -> Census:
        self.lists += 1
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            return await self._list()
        finally:
            await asyncio.sleep(self.ends_after_s)
            self.at_work -= 1

    async def _list(self) -> Census:
        if self.error:
            raise UnavailableError(self.error)
        await self.held.wait()
        return Census({"tcp": len(self.states)}, pack_hashes(self.states))

    async def touch(self, hashes: bytes, per_second: float) -> int:
        return await self._send(self.states & set(unpack_hashes(hashes)), per_second)

    async def _send(self, states: set[int], per_second: float) -> int:
        assert per_second > 0
        assert self.replica is not None
        sent = sorted(states)
        self.replica.states.update(sent[self.lossy :])
        self.lossy = max(0, self.lossy - len(sent))
        return len(sent)

    async def compare(self, primary: bytes, own: Census | None = None) -> Difference:
        now = self.states if own is None else set(unpack_hashes(own.hashes))
        return Difference({"tcp": len(now)}, pack_hashes(compare(primary, now)[0]))

    async def compare_all(self, primary: bytes, alone: bytes) -> Difference:
        missing, only = compare(primary, self.states)
        ending = set(only) & set(unpack_hashes(alone))
        packed = map(pack_hashes, (missing, set(only) - ending, ending))
        found = Difference({"tcp": len(self.states)}, *packed)
        self.states -= ending
        return found


class Pair:
    """`backup` asks, `primary` answers."""

    def __init__(self) -> None:
        self.of_primary, self.of_backup = Table(), Table()
        self.of_primary.replica = self.of_backup
        self.lost_messages = self.internal = 0
        self.told: NodeStatus | None = NodeStatus(Role.PRIMARY, 1.0, True, 0.0, compares=True)
        self.said: list[StatesMessage] = []
        self.full = 0
        """So many messages find no room."""
        self.found: list[Losses] = []
        """What was made good."""
        self.primary = self._node(self.of_primary, lambda: self.backup)
        self.backup = self._node(self.of_backup, lambda: self.primary)
        self.primary.state_changed(State(Phase.SERVING, Role.PRIMARY))
        self.backup.state_changed(State(Phase.FOLLOWING, Role.BACKUP))

    def _node(self, table: Table, other: Callable[[], Comparison]) -> Comparison:
        def speak(message: StatesMessage) -> bool:
            if self.full:
                self.full -= 1
                return False
            self.said.append(message)
            asyncio.get_running_loop().call_soon(other().take, message)
            return True

        def told() -> NodeStatus | None:
            return replace(self.told, states={EVERY: 1 << 40}) if self.told is not None else None

        async def statistics() -> Statistics:
            return Statistics(self.internal, None, 0, 0, 0, self.lost_messages, 0)

        return Comparison(
            table, ComparedWith("fw-1", told, speak, statistics, lambda: "", self.found.append)
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("POLL_S", "PART_PAUSE_S", "QUIET_S", "QUESTION_PAUSE_S"):
                patch.setattr(comparison, name, 0.001)
            patch.setattr(comparison, "WAIT_PRIMARY_S", 0.05)
            patch.setattr(comparison, "kernel_states", lambda: 0)
            async with self._running():
                yield

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(one.run()) for one in (self.primary, self.backup)]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(LIMIT_S):
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def compared(prepare: Callable[[Pair], object]) -> tuple[Compared, Pair]:
    async def scenario() -> tuple[Compared, Pair]:
        pair = Pair()
        prepare(pair)
        async with pair.running():
            return await pair.backup.compare(routine=False), pair

    return asyncio.run(scenario())


def fill(pair: Pair, primary: range, backup: range) -> None:
    pair.of_primary.states, pair.of_backup.states = set(primary), set(backup)


def test_equal_tables_are_compared_once() -> None:
    found, pair = compared(lambda pair: fill(pair, range(MANY), range(MANY)))
    assert found == Compared(MANY, rounds=1)
    assert [type(one) for one in pair.said] == [AskStates, StatesPart, StatesPart, StatesPart]
    assert pair.backup.protocols == pair.primary.protocols == {"tcp": MANY}


def test_an_empty_backup_gets_all_and_then_counts() -> None:
    found, pair = compared(lambda pair: fill(pair, range(MANY), range(0)))
    assert found == Compared(MANY, rounds=1, touched=MANY)
    assert pair.of_backup.states == pair.of_primary.states


def test_what_is_lost_when_much_is_sent_is_in_the_list_after_it() -> None:
    """So it is no reason for one list more."""

    async def scenario() -> None:
        pair = Pair()
        fill(pair, range(MANY), range(0))
        whole = pair.of_primary.touch

        async def touch_and_lose(hashes: bytes, per_second: float) -> int:
            if not pair.lost_messages:
                pair.lost_messages, pair.of_primary.lossy = 7, 40
                pair.of_primary.states.add(MANY)  # and conntrackd lost it
            return await whole(hashes, per_second)

        pair.of_primary.touch = touch_and_lose  # type: ignore[method-assign]  # what happens meanwhile
        async with pair.running():
            found = await pair.backup.compare(routine=False)
        assert found == Compared(MANY + 1, rounds=2, touched=MANY + 41)
        assert pair.found == [Losses(lost=7)]
        assert pair.of_backup.states == pair.of_primary.states
        assert pair.of_primary.lists == 2

    asyncio.run(scenario())


def test_a_regular_comparison_lists_once() -> None:
    async def scenario() -> None:
        pair = Pair()
        fill(pair, range(MANY), range(0))
        async with pair.running():
            assert (await pair.backup.compare(routine=True)).whole
        assert (pair.of_primary.lists, pair.of_backup.lists) == (1, 0)

    asyncio.run(scenario())


def test_what_a_backup_lacks_comes_and_what_only_it_has_stays() -> None:
    """It may live: a list of the primary's may be too short."""
    found, pair = compared(lambda pair: fill(pair, range(100, 5000), range(4000)))
    assert found == Compared(4900, rounds=2, touched=1000)
    assert pair.of_backup.states == set(range(5000))
    assert pair.backup.protocols == {"tcp": 5000}


def compare_twice(pair: Pair, between: Callable[[], object] = lambda: None) -> Compared:
    async def scenario() -> Compared:
        async with pair.running():
            await pair.backup.compare(routine=True)
            between()
            return await pair.backup.compare(routine=True)

    return asyncio.run(scenario())


def test_what_it_had_alone_twice_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "ALONE_S", 0.0)
    pair = Pair()
    fill(pair, range(990), range(1000))
    again_and_new = {995, 5000}
    assert compare_twice(pair, lambda: pair.of_primary.states.update(again_and_new)).ended == 9
    assert pair.of_backup.states == {*range(990), *again_and_new}


def test_a_connection_that_takes_the_place_of_one_that_ends_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the primary's list was made."""
    monkeypatch.setattr(comparison, "ALONE_S", 0.0)
    pair = Pair()
    fill(pair, range(990), range(1000))
    whole = pair.of_backup.compare_all

    async def compare_late(primary: bytes, alone: bytes) -> Difference:
        if alone:
            pair.of_primary.states.add(995)
        return await whole(primary, alone)

    pair.of_backup.compare_all = compare_late  # type: ignore[method-assign]  # what happens meanwhile
    found = compare_twice(pair)
    assert (found.ended, found.touched, found.whole) == (10, 1, True)
    assert pair.of_backup.states == {*range(990), 995}


SHORT_LISTS = {
    "a short list": range(400),
    "no list": range(0),
    "a list of another table": range(900, 3000),
    "a list of few": range(21),
}


@pytest.mark.parametrize("why", ["soon", "another stay", "conntrackd would tell the primary", *SHORT_LISTS])
def test_it_stays_where_that_says_nothing_or_would_end_the_living(
    monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(comparison, "ALONE_S", 3600.0 if why == "soon" else 0.0)
    pair = Pair()
    fill(pair, SHORT_LISTS.get(why, range(990)), range(1000))

    def between() -> None:
        if why == "another stay":
            for role in (Role.FAULT, Role.BACKUP):
                pair.backup.state_changed(State(Phase.FOLLOWING, role))
        pair.internal = int("conntrackd" in why)

    assert compare_twice(pair, between).ended == 0
    assert {*range(1000)} <= pair.of_backup.states


def test_what_is_lost_of_it_is_sent_again() -> None:
    def lose(pair: Pair) -> None:
        fill(pair, range(1000), range(900))
        pair.of_primary.lossy = 30

    found, pair = compared(lose)
    assert found == Compared(1000, rounds=3, touched=130)
    assert pair.of_backup.states == pair.of_primary.states


def test_what_never_comes_is_said_to_be_missing() -> None:
    def lose(pair: Pair) -> None:
        fill(pair, range(1000), range(900))
        pair.of_primary.lossy = 1 << 40

    found, pair = compared(lose)
    assert found.missing == 100
    assert not found.whole
    assert not pair.found


def test_the_last_report_is_looked_at_as_well() -> None:
    def lose(pair: Pair) -> None:
        fill(pair, range(1000), range(999))
        pair.of_primary.lossy = MAX_ROUNDS - 1

    found, _ = compared(lose)
    assert found == Compared(1000, rounds=MAX_ROUNDS + 1, touched=MAX_ROUNDS)


def test_after_losses_the_primary_lists_once_more() -> None:
    """What was lost may be newer than its list."""

    async def scenario() -> None:
        pair = Pair()
        fill(pair, range(1000), range(1000))
        whole = pair.of_backup.compare

        async def compare_late(primary: bytes, own: Census | None = None) -> Difference:
            if not pair.lost_messages:
                pair.lost_messages = 7
                pair.of_primary.states.add(5000)
            return await whole(primary, own)

        pair.of_backup.compare = compare_late  # type: ignore[method-assign]  # what happens meanwhile
        async with pair.running():
            found = await pair.backup.compare(routine=False)
        assert found == Compared(1001, rounds=3, touched=1)
        assert 5000 in pair.of_backup.states
        assert pair.found == [Losses(lost=7)]

    asyncio.run(scenario())


def test_a_comparison_that_always_loses_something_is_not_whole() -> None:
    """Each time something is lost that may be newer than the list."""

    async def scenario() -> None:
        pair = Pair()
        fill(pair, range(1000), range(1000))
        listed = pair.of_primary.list

        async def list_and_lose() -> Census:
            pair.lost_messages += 1
            return await listed()

        pair.of_primary.list = list_and_lose  # type: ignore[method-assign]  # what happens meanwhile
        async with pair.running():
            found = await pair.backup.compare(routine=False)
        assert not found.missing
        assert found.losses
        assert not found.whole
        assert not pair.found

    asyncio.run(scenario())


def test_a_full_socket_is_waited_for() -> None:
    def fill_up(pair: Pair) -> None:
        fill(pair, range(MANY), range(MANY))
        pair.full = 5

    assert compared(fill_up)[0].whole


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (None, "the agent of fw-1 is not heard"),
        (NodeStatus(Role.PRIMARY, 1.0, True, 0.0), "the agent of fw-1 cannot compare states"),
        (NodeStatus(Role.BACKUP, 1.0, False, 0.0, compares=True), "fw-1 is not the primary"),
    ],
)
def test_where_nobody_can_be_asked_it_says_so(told: NodeStatus | None, reason: str) -> None:
    found, pair = compared(lambda pair: setattr(pair, "told", told))
    assert found == Compared(reason=reason)
    assert not found.whole
    assert not pair.said


def test_a_primary_that_falls_silent_in_the_middle_is_an_error() -> None:
    async def scenario() -> None:
        pair = Pair()
        pair.of_primary.held.clear()
        async with pair.running():
            asking = asyncio.create_task(pair.backup.compare(routine=False))
            while not pair.said:
                await asyncio.sleep(0)
            assert pair.backup.running
            pair.told = None
            with pytest.raises(HafwError, match="is not heard any more"):
                await asking
            assert not pair.backup.running

    asyncio.run(scenario())


@pytest.mark.parametrize("error", ["the kernel does not list its states", ""])
def test_a_node_that_cannot_answer_refuses(error: str) -> None:
    async def scenario() -> None:
        pair = Pair()
        pair.of_primary.error = error
        if not error:
            pair.primary.state_changed(State(Phase.FOLLOWING, Role.BACKUP))
        async with pair.running():
            with pytest.raises(HafwError, match=error or "it is not the primary"):
                await pair.backup.compare(routine=False)

    asyncio.run(scenario())


def test_an_answer_ends_with_the_role() -> None:
    async def scenario() -> None:
        pair = Pair()
        pair.of_primary.held.clear()
        async with pair.running():
            asking = asyncio.create_task(pair.backup.compare(routine=False))
            while not pair.said:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            pair.primary.state_changed(State(Phase.FOLLOWING, Role.BACKUP))
            pair.of_primary.held.set()
            pair.told = None
            with pytest.raises(HafwError):
                await asking
            assert [type(one) for one in pair.said] == [AskStates]
            asking.cancel()

    asyncio.run(scenario())


def test_one_that_was_cancelled_takes_nothing_from_the_one_that_has_begun() -> None:
    async def scenario() -> None:
        pair = Pair()
        fill(pair, range(10), range(10))
        pair.of_primary.held.clear()
        async with pair.running():
            first = asyncio.create_task(pair.backup.compare(routine=False))
            while not pair.said:
                await asyncio.sleep(0)
            second = asyncio.create_task(pair.backup.compare(routine=False))
            while len(pair.said) < 2:
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait((first,))
            assert pair.backup.running
            pair.of_primary.held.set()
            assert (await second).whole
            assert not pair.backup.running

    asyncio.run(scenario())


@pytest.mark.parametrize("silent", [False, True])
def test_a_question_that_finds_no_room_has_its_limit_as_well(silent: bool) -> None:
    async def scenario() -> None:
        pair = Pair()
        pair.full = 1 << 40
        async with pair.running():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(comparison, "ANSWER_LIMIT_S", LIMIT_S if silent else 0.05)
                asking = asyncio.create_task(pair.backup.compare(routine=False))
                while not pair.backup.running:
                    await asyncio.sleep(0)
                pair.told = None if silent else pair.told
                with pytest.raises(HafwError, match="not heard any more" if silent else "does not answer"):
                    await asking

    asyncio.run(scenario())


def test_a_peer_that_asks_without_end_is_answered_now_and_then() -> None:
    """And never two questions at once: each costs seconds of a processor."""

    async def scenario() -> None:
        pair = Pair()
        fill(pair, range(10), range(10))
        pair.of_primary.ends_after_s = 0.01
        pair.of_primary.held.clear()
        async with pair.running():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(comparison, "QUESTION_PAUSE_S", pause_s := 0.1)
                begun_s = time.monotonic()
                for number in range(1, 51):
                    pair.primary.take(AskStates(number))
                    await asyncio.sleep(0.005)
                pair.of_primary.held.set()
                while not any(one.number == 50 for one in pair.said):
                    await asyncio.sleep(0.001)
                took_s = time.monotonic() - begun_s
        assert pair.of_primary.most_at_work == 1
        assert pair.of_primary.lists <= 1 + took_s / pause_s

    asyncio.run(scenario())
