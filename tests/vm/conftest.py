# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of booted machines; client and server are namespaces, which cost nothing."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from hafw_lab.client.lab import Lab
from hafw_lab.model.options import LabOptions
from tests.vm.guests import Say, StartPair


@pytest.fixture(scope="session")
def say() -> Say:
    """Shown by pytest with a test that fails: how far the machines came."""

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    return tell


@pytest.fixture(scope="session")
def start_pair(say: Say) -> StartPair:
    """A pair of machines with these releases."""

    def start(first: str, second: str) -> AbstractContextManager[Lab]:
        # half a second: two machines without KVM on two busy processors do not speak every 100 ms
        options = LabOptions(machines={"fw-1": first, "fw-2": second}, advert_interval_ms=500)
        return Lab.start(options, progress=say, name=f"vm-{first}-{second}")

    return start


@pytest.fixture(scope="module")
def mixed(start_pair: StartPair) -> Iterator[Lab]:
    """fw-1 is a Debian 12, fw-2 a Debian 13."""
    with start_pair("bookworm", "trixie") as lab:
        yield lab
