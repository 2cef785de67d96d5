# SPDX-License-Identifier: GPL-2.0-or-later
"""The question of `hafw status`, over a real socket."""

import asyncio
import gc
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.adapters import control, control_server
from agent.adapters.control import RELOAD, STATUS
from agent.errors import HafwError, UnavailableError


async def answer() -> dict[str, Any]:
    return {"schema": 1, "role": "backup"}


async def ask(path: Path, question: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(question)
    if question.endswith(b"\n"):
        await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:  # not all that was sent has been read
        return b""
    finally:
        writer.close()


def test_a_question_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "control.sock"
        server = await control_server.serve(path, {STATUS: answer})
        assert path.stat().st_mode & 0o777 == 0o600
        assert await asyncio.to_thread(control.ask_status, path) == await answer()
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("question", [b"\n", b"stop\n", b"status now\n", b"STATUS\n", b"\xff\n"])
def test_no_other_request_is_known(tmp_path: Path, question: bytes) -> None:
    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: answer})
        found = json.loads(await ask(tmp_path / "s", question))
        assert found == {"error": "unknown request; send one of: status"}
        server.close()

    asyncio.run(scenario())


def test_a_request_that_was_cut_off_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: answer})
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b"status")
        writer.write_eof()
        assert json.loads(await reader.read()) == {"error": "unknown request; send one of: status"}
        writer.close()
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("question", [b"x" * 100_000, b"status", b""])
def test_a_question_that_never_ends_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, question: bytes
) -> None:
    monkeypatch.setattr(control_server, "REQUEST_LIMIT_S", 0.1)

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: answer})
        assert await ask(tmp_path / "s", question) == b""
        assert json.loads(await ask(tmp_path / "s", b"status\n")) == await answer()
        server.close()

    asyncio.run(scenario())


def test_who_does_not_wait_for_the_answer_does_no_harm(tmp_path: Path) -> None:
    async def long_answer() -> dict[str, Any]:
        return {"schema": 1, "text": "x" * 1_000_000}

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: long_answer})
        for _ in range(20):
            _, writer = await asyncio.open_unix_connection(tmp_path / "s")
            writer.write(b"status\n")
            writer.transport.abort()
        assert len((await asyncio.to_thread(control.ask_status, tmp_path / "s"))["text"]) == 1_000_000
        server.close()

    asyncio.run(scenario())


def unread_errors() -> list[BaseException]:
    """Of futures that nobody has asked; when such a one goes, its error is reported as a bug."""
    done = [one for one in gc.get_objects() if isinstance(one, asyncio.Future) and one.done()]
    return [
        error
        for one in done
        if getattr(one, "_log_traceback", False) and (error := one._exception) is not None
    ]


def test_who_is_gone_before_the_sign_of_life_leaves_no_error_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: answer})
        gc.collect()  # what tests before have left
        gc.disable()
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(tmp_path / "s"))
                line.send(b"status\n")
            await asyncio.sleep(0.001)
        assert json.loads(await ask(tmp_path / "s", b"status\n")) == await answer()
        assert unread_errors() == []
        server.close()

    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_an_answer_that_is_read_in_small_pieces_is_whole(tmp_path: Path) -> None:
    """Its end is still in the buffer when the line is closed: nothing may go wrong behind that."""
    told: list[dict[str, Any]] = []
    sizes = iter(range(400_000, 1_000_000, 9_973))

    async def long_answer() -> dict[str, Any]:
        return {"schema": 1, "text": "x" * next(sizes)}

    async def read_slowly() -> int:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s", limit=4096)
        writer.write(b"status\n")
        size = 0
        while part := await reader.read(2048):
            size += len(part)
            await asyncio.sleep(0)
        writer.close()
        return size

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        server = await control_server.serve(tmp_path / "s", {STATUS: long_answer})
        for _ in range(60):
            assert await read_slowly() > 400_000
        await asyncio.sleep(0)
        server.close()

    asyncio.run(scenario())
    assert told == []


@pytest.mark.parametrize("error", [OSError("no memory"), ValueError("odd"), TimeoutError()], ids=repr)
def test_an_error_of_the_answer_is_never_taken_for_one_of_the_client(
    tmp_path: Path, error: Exception
) -> None:
    told: list[dict[str, Any]] = []

    async def wrong_answer() -> dict[str, Any]:
        raise error

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        server = await control_server.serve(tmp_path / "s", {STATUS: wrong_answer})
        with pytest.raises(UnavailableError, match="ended before it answered"):
            await asyncio.to_thread(control.ask_status, tmp_path / "s")
        server.close()

    asyncio.run(scenario())
    assert [context["exception"] for context in told] == [error]


def test_those_who_ask_nothing_are_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "REQUEST_LIMIT_S", 60)

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: answer})
        idle = []
        for size in (control_server.MAX_WAITING, control_server.MAX_OPEN + 20 - control_server.MAX_WAITING):
            for _ in range(size):  # they come together, so several are accepted in one turn
                idle.append(socket.socket(socket.AF_UNIX))
                idle[-1].connect(str(tmp_path / "s"))
            await asyncio.sleep(0.3)
        found = await asyncio.wait_for(ask(tmp_path / "s", b"status\n"), 5)
        assert json.loads(found) == await answer()
        gone = [bool(select.select([line], [], [], 0)[0]) for line in idle]
        assert gone == [True] * 21 + [False] * (len(idle) - 21), "the oldest have to go, and only those"
        for line in idle:
            line.close()
        server.close()

    asyncio.run(scenario())


def test_many_who_ask_at_once_get_the_same_answer_and_who_asks_later_a_newer_one(tmp_path: Path) -> None:
    made = 0
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow_answer() -> dict[str, Any]:
        nonlocal made
        made += 1
        number = made
        begun.set()
        await go.wait()
        return {"schema": 1, "number": number}

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: slow_answer})
        first = asyncio.create_task(ask(tmp_path / "s", b"status\n"))
        await begun.wait()
        later = [asyncio.create_task(ask(tmp_path / "s", b"status\n")) for _ in range(50)]
        await asyncio.gather(*(ask(tmp_path / "s", b"something else\n") for _ in range(3)))
        go.set()
        assert json.loads(await first)["number"] == 1
        assert {json.loads(one)["number"] for one in await asyncio.gather(*later)} <= {2, 3}
        assert made <= 3, "one is made, one waits"
        server.close()

    asyncio.run(scenario())


def test_who_asks_and_never_reads_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "READING_LIMIT_S", 0.1)

    async def long_answer() -> dict[str, Any]:
        return {"schema": 1, "text": "x" * 3_000_000}

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: long_answer})
        with socket.socket(socket.AF_UNIX) as line:
            line.setblocking(False)
            running = asyncio.get_running_loop()
            await running.sock_connect(line, str(tmp_path / "s"))
            await running.sock_sendall(line, b"status\n")
            async with asyncio.timeout(5):
                while not server._open:
                    await asyncio.sleep(0.01)
                while server._open:
                    await asyncio.sleep(0.01)
        server.close()

    asyncio.run(scenario())


def test_a_queue_of_others_is_waited_in(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(0)
    others = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(3)]
    for one in others:
        with suppress(BlockingIOError):
            one.connect(str(tmp_path / "s"))

    def serve() -> None:
        while True:
            line, _ = listener.accept()
            with line:
                if line.recv(100) == b"status\n":
                    line.sendall(b'{"schema": 1}\n')
                    return

    thread = threading.Timer(0.2, serve)
    thread.start()
    for one in others:
        one.close()
    assert control.ask_status(tmp_path / "s") == {"schema": 1}
    thread.join()
    listener.close()


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(HafwError, match="is not a socket; remove it"):
        asyncio.run(control_server.serve(path, {STATUS: answer}))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/control.sock", "x" * 120])
def test_a_place_where_no_socket_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(HafwError, match="cannot listen for `hafw status` at"):
        asyncio.run(control_server.serve(tmp_path / name, {STATUS: answer}))


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.touch(), lambda path: path.mkdir()])
def test_nobody_to_ask(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "s")
    with pytest.raises(
        UnavailableError, match=r"does not answer .*; start it, .*: systemctl restart hafw-agent"
    ):
        control.ask_status(tmp_path / "s")


@contextmanager
def an_agent_that_says(path: Path, answer: bytes | None) -> Iterator[None]:
    """Answers one question; None: never."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    done = threading.Event()

    def serve() -> None:
        line, _ = listener.accept()
        with line:
            line.recv(100)
            if answer is None:
                done.wait(10)
            else:
                line.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield
    done.set()
    thread.join()
    listener.close()


@pytest.mark.parametrize(
    "answer",
    [b"\n", b"garbage\n", b"[]\n", b"null\n", b"\xff\n", b"{}\n", b'{"error": "no"}\n', b"[" * 100_000],
)
def test_an_answer_that_is_none(tmp_path: Path, answer: bytes) -> None:
    with (
        an_agent_that_says(tmp_path / "s", answer),
        pytest.raises(HafwError, match="the agent sent an invalid answer"),
    ):
        control.ask_status(tmp_path / "s")


def test_an_agent_that_ends_before_it_answers(tmp_path: Path) -> None:
    with (
        an_agent_that_says(tmp_path / "s", b""),
        pytest.raises(UnavailableError, match="ended before it answered"),
    ):
        control.ask_reload(tmp_path / "s")


def test_a_reload_is_asked_for_by_name(tmp_path: Path) -> None:
    async def reload() -> dict[str, Any]:
        return {"schema": 1, "rules": "0123"}

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: answer, RELOAD: reload})
        assert await asyncio.to_thread(control.ask_reload, tmp_path / "s") == await reload()
        assert await asyncio.to_thread(control.ask_status, tmp_path / "s") == await answer()
        server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("force", [False, True])
def test_a_handover_tells_how_far_it_is(tmp_path: Path, force: bool) -> None:
    async def hand_over(say: control_server.Say, forced: bool) -> dict[str, Any]:
        await say("asked")
        await say("open")
        return {"schema": 1, "forced": forced}

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {control.STATUS: answer}, hand_over=hand_over)
        heard: list[str] = []
        found = await asyncio.to_thread(control.ask_handover, tmp_path / "s", heard.append, force=force)
        assert found == {"schema": 1, "forced": force}
        assert heard == ["asked", "open"]
        server.close()

    asyncio.run(scenario())


def test_a_handover_whose_client_is_gone_comes_to_its_end(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def hand_over(say: control_server.Say, _: bool) -> dict[str, Any]:
        for number in range(9):
            await say(f"{number} words" * 1000)
        ended.set()
        return {"schema": 1}

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {control.STATUS: answer}, hand_over=hand_over)
        _, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(control.HANDOVER)
        await writer.drain()
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 5)
        server.close()

    asyncio.run(scenario())


def test_an_answer_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "RELOAD_LIMIT_S", 0.2)
    with (
        an_agent_that_says(tmp_path / "s", None),
        pytest.raises(UnavailableError, match="no reply in time"),
    ):
        control.ask_reload(tmp_path / "s")


def test_a_stopped_agent_differs_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SIGN_LIMIT_S", 0.2)
    with (
        an_agent_that_says(tmp_path / "s", None),
        pytest.raises(UnavailableError, match=r"does not answer.*systemctl restart"),
    ):
        control.ask_status(tmp_path / "s")


def test_a_status_that_takes_long_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SIGN_LIMIT_S", 2.0)

    async def slow() -> dict[str, Any]:
        await asyncio.sleep(3)
        return {"schema": 1}

    async def scenario() -> None:
        server = await control_server.serve(tmp_path / "s", {STATUS: slow})
        assert await asyncio.to_thread(control.ask_status, tmp_path / "s") == {"schema": 1}
        server.close()

    asyncio.run(scenario())
