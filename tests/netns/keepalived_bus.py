# SPDX-License-Identifier: GPL-2.0-or-later
"""A private bus with a fake keepalived on it, and an ear for what the agent's adapter tells."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from dbus_next import Message, MessageFlag, MessageType, RequestNameReply, Variant
from dbus_next.aio import MessageBus

from agent.config import loader
from agent.core.assess import VrrpState
from hafw_lab.compose.dbus_policy import compose_bus_config
from tests.checkout import ROOT

PAIR = loader.load(ROOT / "examples" / "pair.yaml")
LIMIT_S = 10.0
NAME = "org.keepalived.Vrrp1"
INSTANCE = "org.keepalived.Vrrp1.Instance"
ETH0 = "/org/keepalived/Vrrp1/Instance/eth0/62/IPv4"
ETH1 = "/org/keepalived/Vrrp1/Instance/eth1/61/IPv4"


class Bus:
    """A dbus-daemon of our own, which can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "bus"
        self._config = directory / "bus.conf"
        self._config.write_text(compose_bus_config(str(self.socket), ('own="*"', 'send_type="method_call"')))
        self._daemon: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self.socket}"

    def start(self) -> None:
        argv = [
            "dbus-daemon",
            f"--config-file={self._config}",
            "--nofork",
            "--nopidfile",
            "--print-address=1",
        ]
        self._daemon = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self._daemon.stdout
        assert self._daemon.stdout.readline().startswith("unix:path="), "dbus-daemon did not start"

    def kill(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.communicate()
            self._daemon = None
        self.socket.unlink(missing_ok=True)


@dataclass
class FakeKeepalived:
    """Owns the name and answers Properties.Get, as keepalived does."""

    bus: MessageBus
    states: dict[str, int]
    answers: Callable[[int], object] | None = None
    """Instead of a good answer: what a property is, from its state."""
    silent: bool = False
    asked: int = 0

    def received(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or message.member != "Get":
            return None
        self.asked += 1
        if self.silent:
            return Message(  # an answer to something else
                message_type=MessageType.METHOD_RETURN, destination=message.sender, reply_serial=999_999
            )
        state = self.states.get(message.path)
        if state is None:
            return Message.new_error(message, "org.freedesktop.DBus.Error.UnknownObject", "no such instance")
        good = Variant("(us)", [state, "words"])
        return Message.new_method_return(message, "v", [self.answers(state) if self.answers else good])

    async def signal(self, path: str, number: int) -> None:
        """As keepalived does it: the new state first, then the signal."""
        self.states[path] = number
        await send_signal(self.bus, path, "u", [number])


async def send_signal(
    bus: MessageBus, path: str, signature: str, body: list[Any], destination: str | None = None
) -> None:
    await bus.send(
        Message(
            message_type=MessageType.SIGNAL,
            destination=destination,
            path=path,
            interface=INSTANCE,
            member="VrrpStatusChange",
            signature=signature,
            body=body,
            flags=MessageFlag.NO_REPLY_EXPECTED,
        )
    )


@asynccontextmanager
async def connected(bus: Bus) -> AsyncIterator[MessageBus]:
    connection = await MessageBus(bus_address=bus.address).connect()
    try:
        yield connection
    finally:
        connection.disconnect()
        await asyncio.gather(connection.wait_for_disconnect(), return_exceptions=True)


@asynccontextmanager
async def fake_keepalived(bus: Bus, **states: int) -> AsyncIterator[FakeKeepalived]:
    async with connected(bus) as connection:
        fake = FakeKeepalived(connection, {ETH0: states.get("eth0", 1), ETH1: states.get("eth1", 1)})
        connection.add_message_handler(fake.received)
        assert await connection.request_name(NAME) is RequestNameReply.PRIMARY_OWNER
        yield fake


@dataclass
class Ear:
    """What the adapter tells, and the adapter itself."""

    adapter: Any
    hints: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    changes: list[tuple[bool, bool]] = field(default_factory=list)
    tries: int = 0
    """Connections to the bus that failed or ended."""

    def changed(self) -> None:
        self.changes.append((self.watched.connected, self.watched.owned))

    def watch(self, socket_path: Path) -> None:
        watch = self.adapter.Watch(self.hints.append, self.refused.append, self.changed)
        self.watched = self.adapter.KeepalivedBus(socket_path, PAIR, watch)
        lost = self.watched._lost

        def count() -> None:
            self.tries += 1
            lost()

        self.watched._lost = count

    @property
    def states(self) -> frozenset[VrrpState]:
        found: frozenset[VrrpState] = self.watched.states()
        return found

    @property
    def unique_name(self) -> str:
        return str(self.watched._bus.unique_name)

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not fact():
                await asyncio.sleep(0.001)

    async def after_tries(self, count: int) -> None:
        aim = self.tries + count
        await self.until(lambda: self.tries >= aim)

    async def in_order(self, bus: MessageBus) -> None:
        """Whatever `bus` sent before has been handled by the adapter."""
        mark = len(self.refused)
        await send_signal(bus, ETH0, "u", [1], self.unique_name)
        await self.until(lambda: len(self.refused) > mark)
        del self.refused[-1]


@asynccontextmanager
async def listening(adapter: ModuleType, socket_path: Path) -> AsyncIterator[Ear]:
    ear = Ear(adapter)
    ear.watch(socket_path)
    task = asyncio.create_task(ear.watched.run())
    try:
        yield ear
        assert not task.done(), "the adapter gave up"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            raise AssertionError("the adapter died") from task.exception()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 40))
