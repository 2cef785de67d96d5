# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for every test: nothing is left running behind it."""

import asyncio
import logging
import os
import signal
from asyncio import runners
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import beforehand
from tests.children import find_children
from tests.parts import PARTS, PartTimes, find_unknown, part_of

# a shell starts its background jobs with Ctrl-C ignored, and what the tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


# root reads only what root or the one behind sudo could have written, and a checkout may be anybody's
os.environ.setdefault("SUDO_UID", str(Path(__file__).stat().st_uid))

# a hook of git hands on which repository it works in, and a git that a test starts would work there too
for variable in [name for name in os.environ if name.startswith("GIT_")]:
    del os.environ[variable]


_IMAGES = pytest.StashKey[beforehand.ImageBuilds]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        action="append",
        default=[],
        help=f"only this part of the tests: {', '.join(PARTS)}; repeatable",
    )


def pytest_configure(config: pytest.Config) -> None:
    if (problem := find_unknown(config.option.part)) is not None:
        raise pytest.UsageError(problem)
    config.pluginmanager.register(PartTimes())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The libraries of a part that is not wanted need not be there."""
    wanted = config.option.part
    left_out = wanted and collection_path.parent == Path(__file__).parent and collection_path.name in PARTS
    return True if left_out and collection_path.name not in wanted else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What fails in seconds fails first, and no idle machine slows down the tests behind it."""
    if wanted := config.option.part:
        config.hook.pytest_deselected(items=[item for item in items if part_of(item.path) not in wanted])
        items[:] = [item for item in items if part_of(item.path) in wanted]
    items.sort(key=lambda item: PARTS.index(part_of(item.path)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Only for a run in which there is time for it, and machines come last."""
    places = {part_of(item.path) for item in session.items}
    if not session.config.option.collectonly and places >= set(PARTS):
        images = session.config.stash[_IMAGES] = beforehand.ImageBuilds()
        images.start()


def pytest_runtest_setup(item: pytest.Item) -> None:
    needs_root = item.get_closest_marker("root")
    if needs_root is not None and os.geteuid() != 0:
        pytest.skip(needs_root.kwargs["reason"])
    if _IMAGES in item.config.stash and part_of(item.path) not in beforehand.QUICK:
        item.config.stash[_IMAGES].wait()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _IMAGES in config.stash:
        config.stash[_IMAGES].stop()


@pytest.fixture(autouse=True)
def nothing_leaks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails on tasks that asyncio.run() had to cancel, on complaints of asyncio's, and on children."""
    leaked: list[str] = []
    # asyncio.run() ends the tasks that were left without a word; this is the one place that sees them
    cancel_rest = runners._cancel_all_tasks  # type: ignore[attr-defined]

    def note_and_cancel(loop: asyncio.AbstractEventLoop) -> None:
        leaked.extend(repr(task) for task in asyncio.all_tasks(loop))
        cancel_rest(loop)

    monkeypatch.setattr(runners, "_cancel_all_tasks", note_and_cancel)
    before = find_children()
    yield
    assert not leaked, f"the test left tasks behind: {leaked}"
    children = {pid: name for pid, name in find_children().items() if pid not in before}
    assert not children, f"the test left children behind: {children}"
    said = [
        entry.getMessage()
        for entry in caplog.get_records("call")
        if entry.name == "asyncio"
        and entry.levelno >= logging.ERROR
        # dbus-next looks at none of its writes; when the bus is gone it learns so by reading
        and not entry.getMessage().startswith("Future exception was never retrieved")
    ]
    assert not said, f"asyncio complains: {said}"
