# SPDX-License-Identifier: GPL-2.0-or-later
"""A comment with a quotation mark is found among what the kernel keeps for nft."""

import pytest

from agent.adapters.nft_comments import is_quoting


def value(value_type: int, data: bytes) -> bytes:
    return bytes((value_type, len(data))) + data


@pytest.mark.parametrize(
    ("userdata", "found"),
    [
        (b"", False),
        (value(0, b"a; b\0"), False),
        (value(0, b'a" ; }\0'), True),
        (value(0, b'a\n"\0'), True),
        (value(1, b'\x01\x00\x06"'), False),  # a version
        (value(1, b"\0\0\0\0") + value(0, b'"\0'), True),
        (value(1, b"\0\0") + value(0, b"\0") + value(34, b'"'), False),
        (b"\0", False),
        (b'\0\xff"', True),  # cut off
    ],
)
def test_only_a_comment_is_looked_at(userdata: bytes, found: bool) -> None:
    assert is_quoting(userdata) is found
