# SPDX-License-Identifier: GPL-2.0-or-later
"""The dynamic sets of two nodes, without a kernel and without a channel."""

import asyncio
from dataclasses import replace

import pytest

from agent.core.peer import NodeStatus
from agent.core.roles import Role
from agent.core.sets import PAUSE_S, PERIOD_S
from agent.engine.sets import MARK, TAKEN_PAUSE_S, SetsWatch
from agent.errors import HafwError, UnavailableError

PRIMARY = NodeStatus(Role.PRIMARY, 10.0, True, 1000.0, rules="b")
BACKUP = replace(PRIMARY, role=Role.BACKUP, gate_open=False)


class Node:
    """What it has in its sets is a word, and what differs is that of the other one."""

    def __init__(self, own: NodeStatus, has: str) -> None:
        self.own, self.has = own, has
        self.peer: NodeStatus | None = None
        self.other: Node | None = None
        self.fails: HafwError | None = None
        self.asked = 0
        self.said: list[str] = []
        self.names: tuple[str, ...] = ("blocked",)
        self.now_s = 1000.0
        self.losses = int(own.sets_lost)
        ends = (lambda: self.own), (lambda: self.peer)
        self.watch = SetsWatch(
            ("fw-1", "fw-2"), *ends, self._ask, self, self.said.append, lambda: self.now_s
        )
        self.watch.sets = lambda: self.names
        self.watch.losses = lambda: self.losses
        self.watch.are_right = self._are_right

    def lose(self) -> None:
        self.losses, self.has = self.losses + 1, ""
        self.own = replace(self.own, sets_lost=True)

    def _are_right(self, losses: int) -> None:
        self.own = replace(self.own, sets_lost=self.losses > losses)

    async def list(self, names: tuple[str, ...]) -> bytes:
        assert names == self.names
        return self.has.encode()

    async def put(self, names: tuple[str, ...], packed: bytes, differing: bytes) -> tuple[int, bytes]:
        if self.fails is None and packed not in (self.has.encode(), differing):
            return 0, packed
        return await self.replace(names, packed, beside=False), b""

    async def replace(self, names: tuple[str, ...], packed: bytes, *, beside: bool) -> int:
        assert names == self.names
        if self.fails is not None:
            raise self.fails
        before = self.has
        self.has = f"{before}+{packed.decode()}" if beside else packed.decode()
        return int(self.has != before)

    async def _ask(self, question: bytes) -> bytes:
        self.asked += 1
        assert question.startswith(MARK)
        if self.other is None:
            raise UnavailableError("the other node is not heard")
        return await self.other.watch.take(question.removeprefix(MARK))


def introduce(one: Node, other: Node) -> None:
    one.peer, other.peer, one.other, other.other = other.own, one.own, other, one


def turn(*nodes: Node, after_s: float = 0.0) -> None:
    for node in nodes:
        node.now_s += after_s
        asyncio.run(node.watch.turn())


def sends_again(one: Node, other: Node, after_s: float = PAUSE_S) -> None:
    other.now_s += after_s
    turn(one, after_s=after_s)


def test_the_other_node_has_what_the_primary_has() -> None:
    one, other = Node(PRIMARY, "new"), Node(BACKUP, "old")
    introduce(one, other)
    turn(one, other)
    assert other.has == "old"
    sends_again(one, other)
    assert (one.has, other.has, one.said) == ("new", "new", [])
    assert other.said == ["1 element was changed in the dynamic sets, to be as on fw-2"]


def test_what_an_administrator_changes_meanwhile_is_not_undone() -> None:
    """On the node that takes, and only then on the one that sends."""
    one, other = Node(PRIMARY, "old"), Node(BACKUP, "new")
    introduce(one, other)
    turn(one)
    one.has = "new"
    sends_again(one, other)
    assert (one.has, other.has) == ("new", "new")
    other.has = "newer"
    sends_again(one, other, PERIOD_S)
    assert other.has == "newer"  # what has differed before that is forgotten
    sends_again(one, other, PERIOD_S)
    assert other.has == "newer"  # and what differed long ago
    sends_again(one, other)
    assert other.has == "new"


def test_a_node_that_lost_them_gets_them_at_once() -> None:
    one, other = Node(PRIMARY, "all"), Node(BACKUP, "")
    other.lose()
    introduce(one, other)
    turn(one)
    assert (other.has, other.own.sets_lost) == ("all", False)


def test_a_node_that_lost_them_gets_them_although_it_is_primary() -> None:
    """And keeps what was added to it since."""
    one, other = Node(replace(PRIMARY, sets_lost=True), "later"), Node(BACKUP, "all")
    introduce(one, other)
    turn(one, other)
    assert (one.has, other.has) == ("later+all", "all")
    introduce(one, other)
    sends_again(one, other)
    sends_again(one, other)
    assert (one.has, other.has) == ("later+all", "later+all")


def test_a_primary_that_lost_nothing_takes_nothing() -> None:
    """Of one that was primary a moment ago."""
    one = Node(PRIMARY, "right")
    assert b"fw-1 is primary" in asyncio.run(one.watch.take(b"wrong"))
    assert one.has == "right"


def test_what_is_lost_while_it_is_sent_is_not_sent() -> None:
    one, other = Node(PRIMARY, "all"), Node(BACKUP, "all")
    introduce(one, other)
    listed = one.list

    async def list_late(names: tuple[str, ...]) -> bytes:
        one.lose()
        return await listed(names)

    one.list = list_late  # type: ignore[method-assign]  # the moment between two looks
    turn(one)
    assert (one.asked, other.has) == (0, "all")


def test_what_is_lost_while_the_peer_takes_it_is_still_lost() -> None:
    one, other = Node(PRIMARY, "all"), Node(BACKUP, "all")
    introduce(one, other)
    taken = other.put

    async def put_late(names: tuple[str, ...], packed: bytes, differing: bytes) -> tuple[int, bytes]:
        one.lose()
        other.lose()
        return await taken(names, packed, differing)

    other.put = put_late  # type: ignore[method-assign]  # the moment between a look and the answer
    turn(one)
    assert one.asked == 1
    assert one.own.sets_lost
    assert other.own.sets_lost


def test_a_peer_that_comes_and_goes_makes_no_more_work_than_one_that_is_there() -> None:
    one, other = Node(PRIMARY, "new"), Node(BACKUP, "old")
    for _ in range(int(10 * PAUSE_S)):
        introduce(one, other)
        other.now_s += TAKEN_PAUSE_S
        turn(one)
        one.peer = None
        turn(one, after_s=1.0)
    assert one.asked == 10


def test_a_peer_that_sends_without_end_waits() -> None:
    other = Node(BACKUP, "old")

    async def send() -> None:
        assert await other.watch.take(b"one") == b"again"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(TAKEN_PAUSE_S / 10):
                await other.watch.take(b"two")

    asyncio.run(send())
    assert other.has == "old"


def test_both_say_so_when_it_cannot_be_done_and_not_after_a_moment_of_change() -> None:
    one, other = Node(PRIMARY, "new"), Node(BACKUP, "old")
    introduce(one, other)

    def again(fails: HafwError | None) -> str:
        other.fails = fails
        other.now_s += TAKEN_PAUSE_S
        turn(one, after_s=PAUSE_S)
        return one.watch.differ

    assert again(HafwError("no")) == ""
    assert again(HafwError("no")) == "fw-2 may have other elements in its dynamic sets: fw-2 says: no"
    assert again(HafwError("\x1b[2J")).endswith("fw-2 says: nothing that is understood here")
    assert again(None) == ""
    assert again(None) == ""
    assert other.has == "new"


@pytest.mark.parametrize("change", ["no sets", "silent", "roles"])
def test_nothing_is_said_of_what_cannot_be_known(change: str) -> None:
    one = Node(PRIMARY, "new")
    one.peer = BACKUP
    turn(one)
    turn(one, after_s=PAUSE_S)
    assert one.watch.differ
    match change:
        case "no sets":
            one.names = ()
        case "silent":
            one.peer = None
        case _:
            one.peer = PRIMARY
    turn(one)
    assert one.watch.differ == ""


def test_what_nothing_reported_is_found_in_a_while() -> None:
    one, other = Node(PRIMARY, "new"), Node(BACKUP, "old")
    introduce(one, other)
    turn(one)
    sends_again(one, other)
    one.has = "by hand"
    sends_again(one, other)
    assert (other.has, one.asked) == ("new", 2)
    sends_again(one, other, PERIOD_S)
    sends_again(one, other)
    assert other.has == "by hand"
