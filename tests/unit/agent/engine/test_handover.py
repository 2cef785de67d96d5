# SPDX-License-Identifier: GPL-2.0-or-later
"""A handover of two nodes with the real loops, on fake hosts; keepalived and the channel are played here."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.config import loader
from agent.core import handover as core_handover
from agent.core.actions import Timer
from agent.core.peer import Handover, HandoverStep, Heard, NodeStatus
from agent.core.roles import Role, RuleSet
from agent.core.state import Phase
from agent.engine import handover
from agent.engine.handover import Handovers
from agent.model.records import Record, RecordKind
from tests.checkout import EXAMPLES
from tests.unit.agent.engine.bench import Bench

PAIR = loader.load(EXAMPLES / "pair.yaml")
SYNC = PAIR.sync_links[0]


class Node:
    """Also the mouth of its handovers: what it says is heard at once, unless it is `mute`."""

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.mute = name, False
        place.mkdir()
        self.bench = Bench(place)
        self.loop = self.bench.loop
        self.heard = Heard({SYNC: time.monotonic()})
        self.other: Node | None = None
        self.handovers = Handovers(PAIR, name, self.loop, self, self._record)
        self.loop.on_change = self.handovers.state_changed

    def _record(self, kind: RecordKind, text: str) -> None:
        self.bench.sink.write(Record(kind, text, time.monotonic_ns()))

    @property
    def said(self) -> list[str]:
        return [record.message for record in self.bench.sink.of(RecordKind.HANDOVER)]

    def describe_own(self) -> NodeStatus:
        state = self.loop.state
        return NodeStatus(
            state.role,
            10.0,
            state.phase.is_open,
            time.time(),
            ready=state.ready,
            rules="b" if state.whole else "",
            handover=self.handovers.word,
        )

    def say_status(self) -> None:
        if not self.mute and self.other is not None:
            now_s = time.monotonic()
            self.other.heard = Heard({SYNC: now_s}, self.describe_own(), now_s)
            self.other.handovers.status_heard(self.other.heard.status or self.describe_own())

    @property
    def number(self) -> str:
        return self.bench.ready.read_text().strip()


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """A primary and a backup that is ready."""
    one, other = (Node(node.name, tmp_path / node.name) for node in PAIR.nodes)
    one.other, other.other = other, one
    async with AsyncExitStack() as stack:
        for node, role in ((one, Role.PRIMARY), (other, Role.BACKUP)):
            await stack.enter_async_context(node.bench.running(as_role=role))
            node.bench.fire(Timer.SETTLE)
            await node.bench.until(partial(is_ready, node))
            await node.bench.at_rest()
        one.say_status()
        other.say_status()
        yield one, other


def is_ready(node: Node) -> bool:
    return node.loop.state.ready is True


def loaded_of(node: Node) -> RuleSet | None:
    """mypy takes it that what was asserted lasts."""
    return node.bench.host.loaded


async def hear(_: str) -> None:
    """An administrator who reads."""


def begin(node: Node, *, force: bool = False) -> "asyncio.Task[dict[str, Any]]":
    return asyncio.get_running_loop().create_task(node.handovers.hand_over(hear, force=force))


def is_given_up(node: Node) -> bool:
    return node.bench.ready.read_text() == "-254\n"


def test_both_gates_are_open_while_the_addresses_are_on_their_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            asking = begin(old)
            await old.bench.until(lambda: is_given_up(old))
            assert heir.bench.host.loaded is RuleSet.PRIMARY
            old.bench.role(Role.BACKUP)
            await old.bench.until(lambda: old.number == "0")
            heir.bench.role(Role.PRIMARY)
            await heir.bench.until(lambda: heir.loop.state.phase is Phase.SERVING)
            assert loaded_of(old) is RuleSet.PRIMARY, "what still comes to its address is lost"
            found = await asking
            assert "error" not in found
            assert found["objections"] == []
            assert old.bench.host.loaded is RuleSet.BACKUP
            assert old.handovers.word is None
            assert "handed over" in old.said[-1]
            assert "the gate is open for it" in heir.said[-1]

    asyncio.run(scenario())


def test_nothing_is_given_up_before_the_gate_of_the_peer_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "ANSWER_S", 0.1)

    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            heir.mute = True
            found = await begin(old)
            assert "did not answer" in found["error"]
            assert old.number == "0"
            await heir.bench.until(lambda: heir.loop.state.phase is Phase.FOLLOWING)
            assert heir.bench.host.loaded is RuleSet.BACKUP, "the primary speaks of it no more"

    asyncio.run(scenario())


def test_a_peer_that_is_not_ready_any_more_refuses(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            stale = old.heard
            heir.loop.state = replace(heir.loop.state, ready=False)
            old.heard = stale
            found = await begin(old)
            assert "has not got all states yet" in found["error"]
            assert old.loop.state.phase is Phase.SERVING
            assert "refused" in heir.said[-1]

    asyncio.run(scenario())


def test_one_at_a_time_and_from_the_primary_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            refused = await begin(heir)
            assert f"{heir.name} is not primary but backup" in refused["error"]
            asking = begin(old)
            await old.bench.until(lambda: is_given_up(old))
            again = await begin(old)
            assert "is under way" in again["error"]
            asking.cancel()

    asyncio.run(scenario())


def test_a_peer_that_does_not_take_over_leaves_this_node_primary(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, _):
            asking = begin(old)
            await old.bench.until(lambda: is_given_up(old))
            for role in (Role.BACKUP, Role.PRIMARY):
                old.bench.role(role)
                await old.bench.at_rest()
            found = await asking
            assert "did not take over" in found["error"]
            assert old.loop.state.phase is Phase.SERVING
            assert old.number == "0"

    asyncio.run(scenario())


def test_force_does_not_wait_for_a_peer_that_cannot_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            heir.loop.state = replace(heir.loop.state, ready=False)
            asking = begin(old, force=True)
            await old.bench.until(lambda: is_given_up(old))
            assert heir.bench.host.loaded is RuleSet.BACKUP
            old.bench.role(Role.BACKUP)
            heir.bench.role(Role.PRIMARY)
            found = await asking
            assert "error" not in found
            assert found["objections"]

    asyncio.run(scenario())


def ask(old: Node, identity: str) -> NodeStatus:
    """The word of a primary that asks."""
    return replace(old.describe_own(), handover=Handover(identity, HandoverStep.ASKED))


def is_expecting(node: Node) -> bool:
    return node.loop.state.phase is Phase.EXPECTING


def test_a_word_that_comes_late_opens_no_gate_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_handover, "AGAIN_S", -100.0)

    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            late = ask(old, "first")
            heir.handovers.status_heard(late)
            await heir.bench.until(partial(is_expecting, heir))
            heir.handovers.status_heard(old.describe_own())
            await heir.bench.until(lambda: not is_expecting(heir))
            heir.handovers.status_heard(late)
            await heir.bench.at_rest()
            assert loaded_of(heir) is RuleSet.BACKUP
            heir.handovers.status_heard(ask(old, "second"))
            await heir.bench.until(partial(is_expecting, heir))

    asyncio.run(scenario())


def test_an_older_word_ends_no_handover(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            before = old.describe_own()
            heir.handovers.status_heard(ask(old, "one"))
            await heir.bench.until(partial(is_expecting, heir))
            heir.handovers.status_heard(before)
            await heir.bench.at_rest()
            assert loaded_of(heir) is RuleSet.PRIMARY

    asyncio.run(scenario())


def test_a_peer_that_asks_again_and_again_does_not_hold_the_gate_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            heir.handovers.status_heard(ask(old, "0"))
            await heir.bench.until(partial(is_expecting, heir))
            heir.bench.fire(Timer.HANDOVER)
            await heir.bench.until(lambda: not is_expecting(heir))
            for number in range(1, 20):
                heir.handovers.status_heard(ask(old, str(number)))
                await heir.bench.at_rest()
                assert loaded_of(heir) is RuleSet.BACKUP
            assert heir.handovers.word is not None
            assert "just before" in heir.handovers.word.reason

    asyncio.run(scenario())


def test_a_node_that_was_handed_the_addresses_may_be_asked_again_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            heir.handovers.status_heard(ask(old, "one"))
            await heir.bench.until(partial(is_expecting, heir))
            asking = old.describe_own()
            for role in (Role.PRIMARY, Role.BACKUP):
                heir.bench.role(role)
                await heir.bench.at_rest()
            heir.bench.fire(Timer.SETTLE)
            await heir.bench.until(partial(is_ready, heir))
            await heir.bench.at_rest()
            heir.handovers.status_heard(replace(asking, handover=Handover("two", HandoverStep.ASKED)))
            await heir.bench.until(partial(is_expecting, heir))

    asyncio.run(scenario())


def test_force_does_not_hand_over_what_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            heir.mute = True
            asking = begin(old, force=True)
            await old.bench.until(lambda: old.handovers.word is not None)
            old.bench.role(Role.BACKUP)
            found = await asking
            assert f"{old.name} is not primary any more" in found["error"]
            assert not is_given_up(old)
            assert not any("gives up" in text for text in old.said)

    asyncio.run(scenario())


def test_an_agent_that_ends_meanwhile_leaves_no_fault_and_no_open_gate_of_a_backup(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            asking = begin(old)
            await old.bench.until(lambda: is_given_up(old))
            assert loaded_of(heir) is RuleSet.PRIMARY
            asking.cancel()
        assert old.number == "0"
        assert loaded_of(old) is RuleSet.PRIMARY, "it was not heard that the addresses are gone"
        assert loaded_of(heir) is RuleSet.BACKUP

    asyncio.run(scenario())


def test_what_speaks_against_a_drill_is_known_on_either_node_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, heir):
            found = old.handovers.describe_fitness()
            assert (found["node"], found["peer"], found["role"]) == (old.name, heir.name, "primary")
            assert (found["away"], found["back"]) == ([], [])
            there = heir.handovers.describe_fitness()
            assert there["away"] == [f"{heir.name} is not primary but backup"]
            assert there["back"] == []
            heir.loop.state = replace(heir.loop.state, ready=False)
            heir.say_status()
            not_ready = [f"{heir.name} has not got all states yet"]
            assert old.handovers.describe_fitness()["away"] == not_ready
            assert heir.handovers.describe_fitness()["back"] == not_ready
            assert (old.said, heir.said) == ([], [])

    asyncio.run(scenario())


def test_a_drill_waits_for_no_handover_that_is_under_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, _):
            asking = begin(old)
            await old.bench.until(lambda: old.handovers.word is not None)
            assert old.handovers.describe_fitness()["away"][0] == "a handover is under way"
            asking.cancel()

    asyncio.run(scenario())


def test_a_primary_whose_gate_is_closed_is_not_said_to_be_no_primary(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (old, _):
            old.loop.state = replace(old.loop.state, phase=Phase.PREPARING)
            says = f"{old.name} is primary, and does not forward yet"
            assert old.handovers.describe_fitness()["away"] == [says]
            assert says in (await begin(old))["error"]

    asyncio.run(scenario())
