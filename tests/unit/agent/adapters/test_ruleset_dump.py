# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists is loaded elsewhere only where it means the same there."""

from dataclasses import dataclass
from typing import Any

import pytest

from agent.adapters.ruleset_dump import Texts, find_text, is_plain, place_of
from agent.errors import ToolError
from agent.rules.objects import FAMILY, TABLES

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


@dataclass
class FakeContext:
    """Answers every command with `answer`, or raises it."""

    answer: tuple[int, str, str] | UnicodeDecodeError

    def set_json_output(self, _: bool) -> None: ...
    def set_dry_run(self, _: bool) -> None: ...
    def set_handle_output(self, _: bool) -> None: ...
    def set_terse_output(self, _: bool) -> None: ...
    def set_numeric_proto_output(self, _: bool) -> None: ...
    def cmd(self, _: str) -> tuple[int, str, str]:
        if isinstance(self.answer, UnicodeDecodeError):
            raise self.answer
        return self.answer


BUSY = (1, "", "internal:0:0-0: Error: Device or resource busy\n")
NOT_TEXT = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


@pytest.mark.parametrize("answer", [BUSY, NOT_TEXT])
def test_a_table_of_others_that_cannot_be_listed_is_left_out(answer: Any) -> None:
    assert find_text(FakeContext(answer), ("ip", TABLES[0])) is None
    assert find_text(FakeContext(answer), (FAMILY, "other")) is None
    assert find_text(FakeContext((0, "text", "")), (FAMILY, "other")) == "text"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [(BUSY, "Device or resource busy", True), (NOT_TEXT, "not UTF-8", False)],
)
def test_why_ours_cannot_be_listed_is_said(table: str, answer: Any, reason: str, retryable: bool) -> None:
    with pytest.raises(ToolError, match=f"nft cannot list table {FAMILY} {table}: .*{reason}") as caught:
        find_text(FakeContext(answer), (FAMILY, table))
    assert caught.value.retryable is retryable


def test_a_table_that_nft_would_read_as_something_else_is_not_loaded() -> None:
    assert Texts({("ip", "other"): None}).load() == ("ip other",)
    with pytest.raises(
        ToolError, match="cannot copy table inet hafw: its listing does not say the same to nft"
    ):
        Texts({(FAMILY, TABLES[0]): None}).load()


def test_an_entry_of_no_table_is_in_none() -> None:
    assert place_of("table", {"family": "ip", "name": "t"}) == ("ip", "t")
    assert place_of("chain", {**PLACE, "name": "c"}) == ("inet", "t")
    for body in ({}, {"name": "x"}, {"family": "inet", "name": "x"}, {"table": "x"}):
        assert place_of("unheard", body) is None
