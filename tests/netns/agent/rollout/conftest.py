# SPDX-License-Identifier: GPL-2.0-or-later
from collections.abc import Iterator

import pytest

from tests.netns.agent.rollout.two_policies import PAIR_FILE, A, B
from tests.netns.machine import Machine, start_machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """With generation 1 in force and B beside it, in /run/b.yaml."""
    with start_machine() as started:
        started.write(PAIR_FILE, A)
        started.write("/run/b.yaml", B)
        started.rules("apply")
        yield started
