# SPDX-License-Identifier: GPL-2.0-or-later
"""keepalived's adapter on a real private bus, with both libraries that it can run on."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from dbus_next import Message, MessageFlag, MessageType, Variant

from agent.core.assess import VrrpState
from tests.netns.keepalived_bus import (
    ETH0,
    ETH1,
    NAME,
    Bus,
    connected,
    fake_keepalived,
    listening,
    run,
    send_signal,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="no dbus-daemon on this machine"),
]


def test_states_are_read_at_the_start(adapter: ModuleType, bus: Bus) -> None:
    async def scenario() -> None:
        async with fake_keepalived(bus, eth0=2, eth1=1), listening(adapter, bus.socket) as ear:
            await ear.until(lambda: ear.states == {VrrpState.MASTER, VrrpState.BACKUP})
            assert ear.watched.connected
            assert ear.watched.owned
            assert sorted(ear.hints) == ["D-Bus state of eth0 (IPv4)", "D-Bus state of eth1 (IPv4)"]

    run(scenario())


def test_a_signal_is_a_hint_and_the_state_is_read(adapter: ModuleType, bus: Bus) -> None:
    async def scenario() -> None:
        async with fake_keepalived(bus) as fake, listening(adapter, bus.socket) as ear:
            await ear.until(lambda: len(ear.hints) == 2)
            ear.hints.clear()
            await fake.signal(ETH0, 2)
            await ear.until(lambda: VrrpState.MASTER in ear.states)
            assert ear.hints == ["D-Bus signal of eth0 (IPv4)", "D-Bus state of eth0 (IPv4)"]
            # a signal that lies: what counts is what is read
            ear.hints.clear()
            await send_signal(fake.bus, ETH0, "u", [3])
            await ear.until(lambda: bool(ear.hints))
            await ear.watched.refresh()
            assert ear.states == {VrrpState.MASTER, VrrpState.BACKUP}
            assert ear.hints == ["D-Bus signal of eth0 (IPv4)"]

    run(scenario())


def test_keepalived_that_comes_later_is_noticed(adapter: ModuleType, bus: Bus) -> None:
    async def scenario() -> None:
        async with listening(adapter, bus.socket) as ear:
            await ear.until(lambda: ear.changes == [(True, False)])
            async with fake_keepalived(bus, eth0=3):
                await ear.until(lambda: VrrpState.FAULT in ear.states)
            await ear.until(lambda: not ear.watched.owned)
            assert ear.states == frozenset()
            assert ear.changes == [(True, False), (True, True), (True, False)]

    run(scenario())


def test_forged_signals_are_refused_and_change_nothing(adapter: ModuleType, bus: Bus) -> None:
    async def scenario() -> None:
        async with (
            fake_keepalived(bus) as fake,
            connected(bus) as stranger,
            listening(adapter, bus.socket) as ear,
        ):
            await ear.until(lambda: len(ear.hints) == 2)
            ear.hints.clear()
            asked = fake.asked
            await send_signal(stranger, ETH0, "u", [2], ear.unique_name)
            await ear.until(lambda: len(ear.refused) == 1)
            sender = stranger.unique_name
            assert ear.refused == [f"a VrrpStatusChange from {sender}, which is not keepalived"]
            await ear.in_order(stranger)
            assert ear.hints == []
            assert fake.asked == asked

    run(scenario())


def test_a_forged_owner_change_is_not_believed(adapter: ModuleType, bus: Bus) -> None:
    async def scenario() -> None:
        async with (
            fake_keepalived(bus),
            connected(bus) as stranger,
            listening(adapter, bus.socket) as ear,
        ):
            await ear.until(lambda: len(ear.hints) == 2)
            await stranger.send(
                Message(
                    message_type=MessageType.SIGNAL,
                    destination=ear.unique_name,
                    path="/org/freedesktop/DBus",
                    interface="org.freedesktop.DBus",
                    member="NameOwnerChanged",
                    signature="sss",
                    body=[NAME, "", stranger.unique_name],
                    flags=MessageFlag.NO_REPLY_EXPECTED,
                )
            )
            await ear.in_order(stranger)
            assert ear.watched.owned
            assert ear.states == {VrrpState.BACKUP}
            assert ear.changes[-1] == (True, True)

    run(scenario())


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        ("u", [7], "unknown state 7"),
        ("u", [2**32 - 1], "unknown state 4294967295"),
        ("s", ["MASTER"], "signature 's'"),
        ("uu", [2, 2], "signature 'uu'"),
        ("", [], "signature ''"),
        ("au", [[2]], "signature 'au'"),
    ],
)
def test_signals_that_make_no_sense_are_refused(
    adapter: ModuleType, bus: Bus, signature: str, body: list[Any], words: str
) -> None:
    async def scenario() -> None:
        async with fake_keepalived(bus) as fake, listening(adapter, bus.socket) as ear:
            await ear.until(lambda: len(ear.hints) == 2)
            ear.hints.clear()
            await send_signal(fake.bus, ETH0, signature, body)
            await ear.until(lambda: len(ear.refused) == 1)
            assert words in ear.refused[0]
            assert ear.hints == []
            assert ear.states == {VrrpState.BACKUP}

    run(scenario())


def test_an_instance_that_is_not_in_the_pair_file_is_nothing_to_us(adapter: ModuleType, bus: Bus) -> None:
    async def scenario() -> None:
        async with fake_keepalived(bus) as fake, listening(adapter, bus.socket) as ear:
            await ear.until(lambda: len(ear.hints) == 2)
            await fake.signal("/org/keepalived/Vrrp1/Instance/eth9/9/IPv4", 2)
            await fake.signal(ETH0, 2)
            await ear.until(lambda: VrrpState.MASTER in ear.states)
            assert len(ear.hints) == 4
            assert ear.refused == []

    run(scenario())


ANSWERS: dict[str, Callable[[int], object]] = {
    "a number alone": lambda _: Variant("u", 2),
    "text": lambda _: Variant("s", "MASTER"),
    "empty text": lambda _: Variant("s", ""),
    "an empty array": lambda _: Variant("au", []),
    "a mapping": lambda _: Variant("a{sv}", {"State": Variant("u", 2)}),
    "an empty mapping": lambda _: Variant("a{sv}", {}),
    "an unknown number": lambda _: Variant("(us)", [55, "Strange"]),
    "the wrong way round": lambda _: Variant("(su)", ["Master", 2]),
    "nested": lambda _: Variant("((us)s)", [[2, "x"], "y"]),
    "a variant in a variant": lambda state: Variant("v", Variant("(us)", [state, "x"])),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_another_kind_makes_the_state_unknown(adapter: ModuleType, bus: Bus, name: str) -> None:
    async def scenario() -> None:
        async with fake_keepalived(bus) as fake, listening(adapter, bus.socket) as ear:
            await ear.until(lambda: len(ear.hints) == 2)
            fake.answers = ANSWERS[name]
            await ear.watched.refresh()
            assert ear.states == frozenset()
            fake.answers = None
            await ear.watched.refresh()
            assert ear.states == {VrrpState.BACKUP}

    run(scenario())


def test_an_answer_that_never_comes_is_not_waited_for(
    adapter: ModuleType, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "ANSWER_LIMIT_S", 0.2)

    async def scenario() -> None:
        async with fake_keepalived(bus) as fake, listening(adapter, bus.socket) as ear:
            await ear.until(lambda: len(ear.hints) == 2)
            fake.silent = True
            async with asyncio.timeout(2):
                await ear.watched.refresh()
            assert ear.states == frozenset()
            assert ear.watched.owned
            fake.silent = False
            await ear.watched.refresh()
            assert ear.states == {VrrpState.BACKUP}

    run(scenario())


SQUATTER = """
import asyncio, os, sys
from dbus_next import Message, MessageType, Variant
from dbus_next.aio import MessageBus

async def main():
    bus = await MessageBus(bus_address=sys.argv[1]).connect()
    def received(message):
        if message.message_type is MessageType.METHOD_CALL and message.member == "Get":
            return Message.new_method_return(message, "v", [Variant("(us)", [3, "Fault"])])
    bus.add_message_handler(received)
    await bus.request_name(sys.argv[2])
    print("mine", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for path in sys.argv[3:]:
        signal = Message(message_type=MessageType.SIGNAL, path=path, interface=sys.argv[2] + ".Instance",
                         member="VrrpStatusChange", signature="u", body=[3])
        await bus.send(signal)
    print("sent", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_a_squatter_on_the_name_is_refused_and_the_real_owner_is_taken_back(
    adapter: ModuleType, bus: Bus
) -> None:
    async def scenario() -> None:
        async with listening(adapter, bus.socket) as ear:
            async with fake_keepalived(bus):
                await ear.until(lambda: ear.states == {VrrpState.BACKUP})
            await ear.until(lambda: not ear.watched.owned)
            ear.hints.clear()
            ear.changes.clear()
            squatter = await asyncio.create_subprocess_exec(
                "/usr/bin/python3", "-Ic", SQUATTER, bus.address, NAME, ETH0, ETH1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=65534, group=65534, extra_groups=[],
            )  # fmt: skip
            assert squatter.stdout
            assert await squatter.stdout.readline() == b"mine\n"
            assert squatter.stdin
            await ear.until(lambda: bool(ear.refused))
            assert ear.refused == ["user 65534 on the bus with keepalived's name"]
            squatter.stdin.write(b"\n")
            assert await squatter.stdout.readline() == b"sent\n"
            await ear.until(lambda: len(ear.refused) == 3)
            assert ear.refused[2].endswith("which is not keepalived")
            await ear.watched.refresh()
            assert ear.states == frozenset()
            assert ear.hints == []
            assert not ear.watched.owned
            assert ear.changes == []
            squatter.kill()
            await squatter.communicate()
            async with fake_keepalived(bus, eth0=2):
                await ear.until(lambda: ear.states == {VrrpState.MASTER, VrrpState.BACKUP})

    run(scenario())


def test_a_bus_that_is_killed_is_noticed_once_and_found_again(adapter: ModuleType, bus: Bus) -> None:
    async def scenario() -> None:
        async with listening(adapter, bus.socket) as ear:
            async with fake_keepalived(bus):
                await ear.until(lambda: ear.states == {VrrpState.BACKUP})
                ear.changes.clear()
                bus.kill()
                await ear.until(lambda: not ear.watched.connected)
                assert ear.states == frozenset()
                assert ear.changes == [(False, False)]
            await ear.after_tries(3)
            assert ear.changes == [(False, False)], "said more than once"
            bus.start()
            await ear.until(lambda: ear.watched.connected)
            await ear.until(lambda: ear.changes == [(False, False), (True, False)])
            async with fake_keepalived(bus):
                await ear.until(lambda: ear.states == {VrrpState.BACKUP})

    run(scenario())
