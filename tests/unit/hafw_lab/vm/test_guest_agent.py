# SPDX-License-Identifier: GPL-2.0-or-later
"""The talk to the guest agent, against one that says what it should and one that does not."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hafw_lab.errors import LabError
from hafw_lab.vm.guest_agent import GuestAgent

PATIENCE_S = 60.0
SHORT_S = 0.2

Answers = Callable[[dict[str, Any]], bytes | None]


class FakeAgent:
    """Reads as qemu-ga does: 0xFF makes it forget half a line. `before` is what its port still holds, `half`
    what it had heard of an order."""

    def __init__(self, answers: Answers, before: bytes = b"", half: bytes = b"") -> None:
        self._answers, self._before, self._half = answers, before, half
        self.heard: list[dict[str, Any]] = []
        self._callers: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers.append(asyncio.current_task())
        writer.write(self._before)
        while line := await reader.readline():
            request = json.loads((self._half + line).rpartition(b"\xff")[2])
            self._half = b""
            self.heard.append(request)
            answer = self._answer(request)
            if answer is None:
                break
            writer.write(answer)
        writer.close()

    async def wait_alone(self) -> None:
        """Until every caller has hung up."""
        await asyncio.gather(*(one for one in self._callers if one))

    def _answer(self, request: dict[str, Any]) -> bytes | None:
        if request["execute"] == "guest-sync-delimited":
            return b"\xff" + returned(request["arguments"]["id"])
        return self._answers(request)


def returned(value: object) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


def refused(text: str) -> bytes:
    return json.dumps({"error": {"class": "GenericError", "desc": text}}).encode() + b"\n"


def talk(path: Path, fake: FakeAgent, use: Callable[[GuestAgent], Awaitable[None]]) -> list[str]:
    """Runs `use` against the fake; returns the commands that it heard, without the synchronizing."""

    async def run() -> None:
        server = await asyncio.start_unix_server(fake.serve, path / "qga.sock")
        async with server:
            try:
                await use(GuestAgent("fw-1", path / "qga.sock"))
            finally:
                await fake.wait_alone()

    asyncio.run(run())
    return [one["execute"] for one in fake.heard if one["execute"] != "guest-sync-delimited"]


def set_clock(agent: GuestAgent) -> Awaitable[None]:
    return agent.set_clock(timeout_s=PATIENCE_S)


class Clock:
    """The clock of a guest that is a day behind; what the agent of Debian 13 answers when it was set."""

    def __init__(self, *, sets: bool = True, complains: bool = False) -> None:
        self.offset_ns = -86_400 * 10**9
        self._sets, self._complains = sets, complains

    def answer(self, request: dict[str, Any]) -> bytes:
        if request["execute"] == "guest-get-time":
            return returned(time.time_ns() + self.offset_ns)
        if self._sets:
            self.offset_ns = request["arguments"]["time"] - time.time_ns()
        return refused("hwclock failed to set\nhardware clock") if self._complains else returned({})


@pytest.mark.parametrize("complains", [False, True])
def test_the_clock_is_set_and_read_back(tmp_path: Path, complains: bool) -> None:
    clock = Clock(complains=complains)
    assert talk(tmp_path, FakeAgent(clock.answer), set_clock) == ["guest-set-time", "guest-get-time"]
    assert abs(clock.offset_ns) < PATIENCE_S * 1e9


@pytest.mark.parametrize(
    ("complains", "why"), [(False, "further off"), (True, "says: hwclock failed to sethardware clock$")]
)
def test_a_clock_that_was_not_set_is_reported(tmp_path: Path, complains: bool, why: str) -> None:
    fake = FakeAgent(Clock(sets=False, complains=complains).answer)
    with pytest.raises(LabError, match=f"fw-1: its clock could not be set: .*{why}"):
        talk(tmp_path, fake, set_clock)


@pytest.mark.parametrize(
    "before",
    [
        b'{"return": 5}\n',
        b'\xff{"return": 5}\n',
        b"half a line",
        bytes(200_000),
        b'{"return": {}}\n' * 10_000,
    ],
    ids=["answer", "synchronized", "half", "long", "many"],
)
def test_what_the_port_still_holds_is_no_answer(tmp_path: Path, before: bytes) -> None:
    talk(tmp_path, FakeAgent(Clock().answer, before), set_clock)


def test_half_an_order_of_another_caller_is_forgotten(tmp_path: Path) -> None:
    talk(tmp_path, FakeAgent(Clock().answer, half=b'{"execute": "guest-shut'), set_clock)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"what?\n", "invalid answer"),
        (b"[1]\n", "invalid answer"),
        (b"{}\n", "invalid answer"),
        (b"\xc3\x28\n", "invalid answer"),
        (b"[" * 50_000 + b"\n", "invalid answer"),
        (b"9" * 200_000, "invalid answer"),
        (b'{"error": "all of it"}\n', "invalid answer"),
        (b"", r"did not answer 'guest-set-time' within 0\.2 s"),
        (None, "its qemu ended before it had answered 'guest-set-time'"),
    ],
    ids=["text", "list", "empty", "bytes", "deep", "long", "error", "silence", "end"],
)
def test_a_wrong_answer_is_one_sentence(tmp_path: Path, answer: bytes | None, message: str) -> None:
    short = message.startswith("did")
    with pytest.raises(LabError, match=message) as caught:
        talk(
            tmp_path,
            FakeAgent(lambda _: answer),
            lambda agent: agent.set_clock(timeout_s=SHORT_S if short else PATIENCE_S),
        )
    assert re.fullmatch(r"fw-1: [ -~]{10,150}", str(caught.value)), "no line of the guest's own"


def test_a_guest_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    words = refused("\x1b[2J" + "no\n" * 1000)
    with pytest.raises(LabError) as caught:
        talk(tmp_path, FakeAgent(lambda _: words), lambda agent: agent.shut_down(timeout_s=PATIENCE_S))
    assert re.fullmatch(r"fw-1: its guest agent says: \[2J(no)+n?", str(caught.value))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("answers", [[], [b"{", b"}"]])
def test_nobody_listens(tmp_path: Path, answers: Sequence[bytes]) -> None:
    """Only the port is there, and may hold something."""

    callers: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(asyncio.current_task())
        writer.writelines(answers)
        # until the caller hangs up: Python 3.13 closes a writer that nobody holds
        await reader.read()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_unix_server(serve, tmp_path / "qga.sock"):
            try:
                await GuestAgent("fw-1", tmp_path / "qga.sock").set_clock(timeout_s=SHORT_S)
            finally:
                await asyncio.gather(*(one for one in callers if one))

    with pytest.raises(LabError, match="did not answer 'guest-set-time'"):
        asyncio.run(run())


def test_a_machine_without_the_port_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="fw-1: its guest agent cannot be reached"):
        asyncio.run(GuestAgent("fw-1", tmp_path / "qga.sock").shut_down())


def test_a_shutdown_ends_with_qemu_itself(tmp_path: Path) -> None:
    async def shut_down(agent: GuestAgent) -> None:
        await agent.shut_down(timeout_s=PATIENCE_S)

    assert talk(tmp_path, FakeAgent(lambda _: None), shut_down) == ["guest-shutdown"]
    with pytest.raises(LabError, match="still on"):
        talk(tmp_path, FakeAgent(lambda _: returned({})), shut_down)
    with pytest.raises(LabError, match="did not answer 'guest-shutdown'"):
        talk(tmp_path, FakeAgent(lambda _: b""), lambda agent: agent.shut_down(timeout_s=SHORT_S))
