# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service manager is told, and that telling it never waits."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.adapters.service import ServiceManager


class Manager:
    """The other end: a service manager's socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address.replace("@", "\0", 1))
        self.environment = {"NOTIFY_SOCKET": address}

    def read(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@hafw-test-{os.getpid()}"
    made = Manager(address)
    with closing(made.socket):
        yield made


def test_the_words_of_the_protocol(manager: Manager) -> None:
    with closing(ServiceManager(manager.environment)) as service:
        service.say_status("backup, no problems")
        service.say_status("backup, no problems")
        service.say_ready()
        service.feed_watchdog()
        service.say_reloading()
        service.say_stopping()
    *said, reloading, stopping = manager.read()
    assert said == ["STATUS=backup, no problems", "READY=1\nSTATUS=backup, no problems", "WATCHDOG=1"]
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert int(reloading.rpartition("=")[2]) > 0
    assert stopping == "STOPPING=1"


def test_a_manager_that_does_not_read_is_not_waited_for_and_gets_the_newest_status_later(
    manager: Manager,
) -> None:
    with closing(ServiceManager(manager.environment)) as service:
        for number in range(10_000):
            service.say_status(f"status {number}")
        waited = len(manager.read())
        assert 0 < waited < 10_000
        service.feed_watchdog()
        service.feed_watchdog()
    assert manager.read() == ["WATCHDOG=1\nSTATUS=status 9999", "WATCHDOG=1"]


def test_without_a_manager_nothing_happens() -> None:
    with closing(ServiceManager({})) as service:
        service.say_status("x")
        service.say_ready()
        service.feed_watchdog()
        assert service.watchdog_s is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "15000000"}, 15.0),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "15000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_who_is_watched(environment: dict[str, str], expected: float | None) -> None:
    assert ServiceManager(environment).watchdog_s == expected
