# SPDX-License-Identifier: GPL-2.0-or-later
"""What keepalived and people learn of a node that is in maintenance."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from agent.adapters.maintenance_file import write_maintenance
from agent.core.maintenance import Maintenance
from agent.core.roles import Standing
from agent.engine import maintenance
from agent.engine.maintenance import MaintenanceWatch
from agent.engine.readiness import FAULT, Readiness
from agent.errors import HafwError
from agent.model.records import RecordKind

Found = TypeVar("Found")
NOT_READY = -11
LEAST, NEVER = Maintenance("then", "a disk"), Maintenance("then", never=True)


class Node:
    def __init__(self, place: Path) -> None:
        self.place, self._ready_file = place / "maintenance", place / "ready"
        self.said: list[str] = []
        self.readiness = Readiness(self._ready_file, NOT_READY)
        self.watch = MaintenanceWatch(self.place, self.readiness, self._record, beside)

    def _record(self, kind: RecordKind, text: str) -> None:
        assert kind is RecordKind.MAINTENANCE
        self.said.append(text)

    @property
    def number(self) -> int:
        return int(self._ready_file.read_text())


async def beside(job: Callable[[], Found]) -> Found:
    return job()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("ready", [True, False])
def test_it_stands_behind_a_peer_that_is_not_ready_either(node: Node, ready: bool) -> None:
    write_maintenance(node.place, LEAST)
    node.watch.begin()
    node.readiness.write(ready)
    assert FAULT < node.number < NOT_READY
    assert "in maintenance since then (primary only if there is no other): a disk" in node.said[0]


def test_never_is_a_fault_to_keepalived_until_it_is_over(node: Node) -> None:
    write_maintenance(node.place, NEVER)
    node.watch.begin()
    node.readiness.write(True)
    assert node.number == FAULT
    write_maintenance(node.place, None)
    asyncio.run(node.watch.take())
    assert node.number == 0
    assert "is over" in node.said[-1]


def test_a_handover_gives_the_addresses_up_all_the_same(node: Node) -> None:
    write_maintenance(node.place, LEAST)
    node.watch.begin()
    node.readiness.stand(Standing.GIVES_UP)
    assert node.number == FAULT
    node.readiness.stand(Standing.STANDS_BACK)
    assert FAULT < node.number < NOT_READY


def test_a_note_that_cannot_be_read_stands_back_at_a_start_and_changes_nothing_later(node: Node) -> None:
    node.place.write_text("{")
    node.watch.begin()
    node.readiness.write(True)
    assert FAULT < node.number < NOT_READY
    assert "is invalid" in node.said[0]
    write_maintenance(node.place, NEVER)
    asyncio.run(node.watch.take())
    node.place.write_text("{")
    with pytest.raises(HafwError, match="is invalid"):
        asyncio.run(node.watch.take())
    assert node.number == FAULT


def test_people_are_reminded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "LOOK_S", 0.001)
    monkeypatch.setattr(maintenance, "REMIND_AFTER_S", 0.01)

    async def scenario() -> None:
        running = asyncio.create_task(node.watch.run())
        await asyncio.sleep(0.05)
        assert not node.said
        write_maintenance(node.place, LEAST)
        await node.watch.take()
        while len(node.said) < 3:
            await asyncio.sleep(0.001)
        running.cancel()

    asyncio.run(scenario())
