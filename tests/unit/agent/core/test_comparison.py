# SPDX-License-Identifier: GPL-2.0-or-later
"""What two agents say to each other of states."""

import pytest

from agent.channel.messages import decode, encode
from agent.core.comparison import MAX_REASON, refused_for


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("the kernel does not answer", "the kernel does not answer"),
        ("Traceback:\n  File x\n\tMemoryError\n", "Traceback: File x MemoryError"),
        ("\x1b[2J\0 \ud800", "?[2J? ?"),
        ("long " * 1000, ("long " * 1000)[:MAX_REASON]),
    ],
)
def test_a_refusal_is_one_line_that_the_peer_takes(reason: str, said: str) -> None:
    one = refused_for(7, reason)
    assert one.reason == said
    assert decode(encode(one)) == one
