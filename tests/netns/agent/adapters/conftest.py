# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of adapters have in common."""

from collections.abc import Iterator

import pytest

from tests.netns.namespaces import Namespace, join, start_namespaces


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    """Two nodes on one link, each with an address of its own."""
    with start_namespaces("here", "there") as (here, there):
        join(here, "eth0", there, "eth0")
        for number, node in enumerate((here, there), 1):
            node.ip(f"address add 192.168.0.{number}/24 dev eth0")
            node.ip(f"address add fd00:0:0:a::{number}/64 dev eth0 nodad")
        yield here, there
