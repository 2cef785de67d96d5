# SPDX-License-Identifier: GPL-2.0-or-later
"""An exception that nobody handles ends the agent, whoever's callback it was in; only the bus library may
grumble."""

import asyncio
import os
from pathlib import Path

import pytest

from agent.engine import crash
from agent.errors import HafwError


async def until_cancelled() -> None:
    working = asyncio.current_task()
    assert working is not None
    with crash.ending(working, print):
        async with asyncio.timeout(10):
            await asyncio.Event().wait()


def fail() -> None:
    raise ValueError("a bug")


def test_a_bug_in_a_callback_ends_it() -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(fail)
        await until_cancelled()

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(scenario())


def test_what_ends_it_is_said_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    test_a_bug_in_a_callback_ends_it()
    assert capsys.readouterr().out == f"ValueError: a bug at {__file__}:{fail.__code__.co_firstlineno + 1}\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError(), "ValueError"),
        (OSError(32, "two\nlines"), "BrokenPipeError: [Errno 32] two lines"),
        (ValueError("\x1b[2Jx" + 2000 * "y"), "ValueError: \\x1b[2Jx" + 992 * "y"),
        (HafwError("cannot listen", "look there"), "cannot listen; look there"),
        (BaseExceptionGroup("of tasks", [ExceptionGroup("inside", [KeyError("x")])]), "KeyError: 'x'"),
    ],
)
def test_an_error_is_described_in_one_line(error: BaseException, words: str) -> None:
    assert crash.in_one_line(error) == words


def test_a_bug_in_a_reader_ends_it() -> None:
    async def scenario() -> None:
        readable, writable = os.pipe()
        os.write(writable, b"x")
        asyncio.get_running_loop().add_reader(readable, fail)
        try:
            await until_cancelled()
        finally:
            asyncio.get_running_loop().remove_reader(readable)
            os.close(readable)
            os.close(writable)

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(scenario())


def test_a_bug_in_a_task_that_nobody_waits_for_ends_it() -> None:
    async def scenario() -> None:
        async def broken() -> None:
            fail()

        task = asyncio.create_task(broken())
        await asyncio.wait([task])
        working = asyncio.current_task()
        assert working is not None
        with crash.ending(working, print):
            del task
            async with asyncio.timeout(10):
                await asyncio.Event().wait()

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(scenario())


def library_that_raises(tmp_path: Path, call: str) -> BaseException:
    """What comes out of a file of the bus library's that does `call`."""
    path = tmp_path / "dbus_next" / "message_bus.py"
    source = compile(f"def raises(ours):\n    {call}\n", str(path), "exec")
    names: dict[str, object] = {}
    exec(source, names)
    raises = names["raises"]
    assert callable(raises)
    try:
        raises(fail)
    except (EOFError, ValueError) as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_bus_librarys_own_trouble_is_only_logged(tmp_path: Path) -> None:
    assert crash.is_foreign(library_that_raises(tmp_path, "raise EOFError"))
    assert crash.is_foreign(EOFError())
    with pytest.raises(ValueError, match="a bug") as raised:
        fail()
    assert not crash.is_foreign(raised.value)


def test_a_handler_of_ours_that_the_bus_library_calls_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash, "OUR_FILES", f"{Path(__file__).parent}/")
    error = library_that_raises(tmp_path, "ours()")
    assert not crash.is_foreign(error)
