# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists is loaded elsewhere only where it means the same there."""

from typing import Any

import pytest

from agent.adapters.ruleset_dump import is_plain

PLACE = {"family": "inet", "table": "t", "handle": 4}


@pytest.mark.parametrize("name", ["hafw-gate", "from/eth1/to/eth0", "_", ".a", "digest-0123", "A/b.c_d-"])
def test_a_name_that_is_one_word_of_letters_is_plain(name: str) -> None:
    assert is_plain({"family": "inet", "name": name})
    assert is_plain({**PLACE, "name": name})
    assert is_plain({**PLACE, "chain": name, "comment": "a; b {\n} \\ 'c'", "expr": [{"drop": None}]})


@pytest.mark.parametrize(
    "name", ["a b", "a; flush ruleset", "a\n", "", "1a", "-a", "a*", "\u00e4", '"a"', "a{", "$a"]
)
@pytest.mark.parametrize("key", ["table", "name", "chain", "dev"])
def test_a_name_that_may_be_something_else_is_not(name: str, key: str) -> None:
    assert not is_plain({**PLACE, key: name})


@pytest.mark.parametrize(
    "more",
    [
        {"comment": 'x" accept # '},
        {"expr": [{"log": {"prefix": 'x" accept # '}}]},
        {"expr": [{"match": {"left": {"meta": {"key": "iifname"}}, "right": {"set": ['x"y']}}}]},
        {"dev": ["eth0", "a;b"]},
    ],
)
def test_a_text_that_ends_its_quotes_is_not(more: dict[str, Any]) -> None:
    assert not is_plain({**PLACE, "chain": "c", **more})
