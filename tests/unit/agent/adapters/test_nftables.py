# SPDX-License-Identifier: GPL-2.0-or-later
"""The adapter against a libnftables that misbehaves. What the real one does is in tests/netns."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.adapters.nftables import Nftables
from agent.config.loader import load
from agent.core.roles import RuleSet
from agent.errors import OvertakenError, ToolError
from agent.rules.compile import compile_pair
from agent.rules.nft_json import object_json
from agent.rules.objects import TABLES, Object, Table
from tests.checkout import GOLDEN

COMPILED = compile_pair(load(GOLDEN / "rules" / "described" / "hafw.yaml"))
GARBAGE = ["", "garbage", "[]", "{}", "null", '{"nftables": {}}', '{"nftables": [1]}', '{"nftables": [{}]}']


@dataclass
class FakeContext:
    """Answers each command with what `answer` says of it, and remembers what it was told."""

    answer: Callable[[str], tuple[int, str, str]]
    told: list[tuple[bool, str]] = field(default_factory=list)
    dry: bool = False

    def set_json_output(self, val: bool) -> None:
        assert val

    def set_handle_output(self, val: bool) -> None:
        raise AssertionError("nobody asks for handles here")

    def set_dry_run(self, onoff: bool) -> None:
        self.dry = onoff

    def set_terse_output(self, val: bool) -> None:
        raise AssertionError("no set here may hold many")

    def set_numeric_proto_output(self, val: bool) -> None:
        raise AssertionError("the names of protocols are for people")

    def cmd(self, cmdline: str) -> tuple[int, str, str]:
        self.told.append((self.dry, cmdline))
        return self.answer(cmdline)


def listing_of(objects: Iterable[Object], table: str) -> str:
    """What nft would list, were it as simple as echoing what it was given."""
    entries: list[dict[str, Any]] = [dict(object_json(one)) for one in objects if one.table == table]
    for entry in entries:
        if "counter" in entry:
            entry["counter"] = {**entry["counter"], "packets": 1, "bytes": 2}
    return json.dumps({"nftables": [{"metainfo": {}}, *entries]})


def faithful(rules: RuleSet) -> Callable[[str], tuple[int, str, str]]:
    def answer(command: str) -> tuple[int, str, str]:
        if '"list"' not in command:
            return 0, "", ""
        (asked,) = json.loads(command)["nftables"]
        table = asked["list"]["table"]["name"]
        return 0, listing_of((Table(table), *COMPILED.objects(rules)), table), ""

    return answer


def test_a_load_is_one_transaction_and_read_back() -> None:
    context = FakeContext(faithful(RuleSet.BACKUP))
    adapter = Nftables(COMPILED, context, context)
    assert adapter.load(RuleSet.BACKUP).rules is RuleSet.BACKUP
    (dry, loaded), *reading = context.told
    assert not dry
    assert '"list"' not in loaded
    assert [json.loads(look)["nftables"][0]["list"]["table"]["name"] for _, look in reading] == [*TABLES]
    assert adapter.verify(RuleSet.BACKUP).drift is None


def test_a_load_of_which_nothing_is_there_afterwards_is_an_error() -> None:
    with pytest.raises(ToolError, match="not what was just loaded"):
        Nftables(COMPILED, FakeContext(faithful(RuleSet.PRIMARY))).load(RuleSet.BACKUP)


def test_a_flip_is_one_command_and_no_look() -> None:
    context = FakeContext(lambda _: (0, "", ""))
    Nftables(COMPILED, context).flip(RuleSet.PRIMARY)
    assert len(context.told) == 1
    assert '"list"' not in context.told[0][1]


@pytest.mark.parametrize("successor", [False, True])
def test_a_look_that_was_overtaken_says_nothing(successor: bool) -> None:
    """It runs in another thread, while the loop changes the rules."""
    context = FakeContext(faithful(RuleSet.BACKUP))

    def overtaken(command: str) -> tuple[int, str, str]:
        changing.flip(RuleSet.PRIMARY)
        return faithful(RuleSet.BACKUP)(command)

    looking = FakeContext(overtaken)
    adapter = Nftables(COMPILED, context, looking)
    changing = adapter.succeed(COMPILED) if successor else adapter
    with pytest.raises(OvertakenError):
        adapter.verify(RuleSet.BACKUP)
    assert not any('"list"' in command for _, command in context.told), "the look has a context of its own"


def test_a_look_from_within_a_change_says_nothing() -> None:
    seen: list[BaseException] = []

    def look_while_flipping(_: str) -> tuple[int, str, str]:
        try:
            adapter.verify(RuleSet.BACKUP)
        except OvertakenError as error:
            seen.append(error)
        return 0, "", ""

    adapter = Nftables(COMPILED, FakeContext(look_while_flipping), FakeContext(faithful(RuleSet.BACKUP)))
    adapter.flip(RuleSet.PRIMARY)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "text",
    [
        *GARBAGE,
        "[" * 100_000,
        '{"nftables": []}',
        '{"nftables": [{"table": 3}]}',
        '{"nftables": [{"table": {}}, {"counter": {"packets": "many"}}]}',
        # what 1.0.6 says of a table with an owner
        '{"nftables": [{"table": {"family": "inet", "name": "hafw", "handle": 1, "flags": \n',
    ],
)
def test_a_garbled_listing_is_an_error(text: str) -> None:
    context = FakeContext(lambda _: (0, text, ""))
    adapter = Nftables(COMPILED, context, context)
    for look in (adapter.read, lambda: adapter.verify(RuleSet.BACKUP), lambda: adapter.load(RuleSet.BACKUP)):
        with pytest.raises(ToolError, match="cannot be read back"):
            look()


def test_any_error_but_a_missing_table_is_an_error() -> None:
    def reading(reason: str) -> Nftables:
        return Nftables(COMPILED, FakeContext(lambda _: (-1, "", f"internal:0:0-0: Error: {reason}\n")))

    assert not reading("No such file or directory").read().present
    with pytest.raises(ToolError, match="cannot list the table: Permission denied"):
        reading("Permission denied").read()


def test_bytes_that_are_no_text_are_an_error() -> None:
    adapter = Nftables(COMPILED, FakeContext(lambda _: (0, b"\xff".decode(), "")))
    with pytest.raises(ToolError, match="UTF-8"):
        adapter.read()


@pytest.mark.parametrize("status", [0, -1, 1])
def test_an_error_is_reported_in_its_first_line_whatever_the_status(status: int) -> None:
    errors = "\ninternal:0:0-0: Error: Could not process rule: Device or resource busy\n\nmore\n"
    adapter = Nftables(COMPILED, FakeContext(lambda _: (status, "", errors)))
    with pytest.raises(ToolError) as caught:
        adapter.flip(RuleSet.PRIMARY)
    expected = "nft cannot switch to the primary's rules: Could not process rule: Device or resource busy"
    assert caught.value.message == expected
    assert caught.value.retryable
    assert caught.value.exit_status == status
    assert caught.value.stderr == errors


def test_a_failure_without_a_word_is_an_error_too() -> None:
    context = FakeContext(lambda _: (-1, "", ""))
    for told in (Nftables(COMPILED, context).load, Nftables(COMPILED, context).check):
        with pytest.raises(ToolError, match="no reason"):
            told(RuleSet.PRIMARY)
    assert [dry for dry, _ in context.told] == [False, True]
    assert not context.dry, "the context does not stay in dry run"
