# SPDX-License-Identifier: GPL-2.0-or-later
"""One lab for all tests here: client and server are machines with a desktop, the firewalls namespaces."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hafw_lab.client import registry
from hafw_lab.client.lab import Lab
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import DEFAULT
from tests.beforehand import DESKTOP_RELEASE
from tests.desktop.virtual_screen import VirtualScreen, start_virtual_screen

LAB = "desktop-tests"
DESKTOPS = ("client", "omarine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/desktop/" in item.nodeid:
            item.add_marker(pytest.mark.vm)


def say(text: str) -> None:
    """Shown by pytest with a test that fails: how far the machines came."""
    print(text, file=sys.stderr, flush=True)


@pytest.fixture(scope="session")
def desktops() -> Iterator[Lab]:
    options = LabOptions(
        machines=dict.fromkeys(DESKTOPS, DESKTOP_RELEASE),
        desktops=dict.fromkeys(DESKTOPS, "qxl"),
        advert_interval_ms=500,
    )
    with ExitStack() as stack:
        stack.callback(registry.down, LAB, say)
        registry.up(LAB, options, DEFAULT, say)
        lab = registry.attach(LAB)
        stack.callback(lab.close)
        yield lab


@pytest.fixture
def virtual_screen(tmp_path: Path) -> Iterator[VirtualScreen]:
    """A screen for viewers."""
    with start_virtual_screen(tmp_path) as screen:
        yield screen
