# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists, for a command that asks once: our tables with the words of nft, or every table as it could
be loaded elsewhere. nft_context.py and nftables.py describe how nft behaves.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from agent.adapters.nft_context import find, first_line, list_ours, open_context, run
from agent.errors import ToolError
from agent.rules.listing import Listing, listing_of
from agent.rules.nft_parse import entries_of, parse_rule
from agent.rules.objects import FAMILY, TABLE, TABLES, Rule
from agent.rules.show import rule_texts

_LIST = ("nft", "list", "table", FAMILY, TABLE)


def read_table() -> Listing:
    """What is loaded, by any program. HafwError when it is not there or we may not look."""
    context = open_context()
    context.set_json_output(True)
    try:
        entries = list_ours(context, lean=True)
        return listing_of(entries if entries is not None else _missing(), ())
    except ValueError as error:
        message = f"nft sent an answer that cannot be read back: {error}"
        raise ToolError(_LIST, message, retryable=True) from error


def read_rule_texts() -> dict[tuple[str, int], str]:
    """The rules of what is loaded as nft writes them, by table and handle. HafwError as read_table()."""
    context = open_context()
    context.set_handle_output(True)
    context.set_terse_output(True)
    texts: dict[tuple[str, int], str] = {}
    for name in TABLES:
        text = find(context, f"list table {FAMILY} {name}", "the table", _LIST)
        texts |= rule_texts(name, text or _missing())
    return texts


def _missing() -> NoReturn:
    reason = os.strerror(errno.ENOENT)
    raise ToolError(_LIST, f"nft cannot list the table: {reason}", exit_status=1, hint="start hafw-agent")


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Every table of a network namespace. `texts` are nft's own, by family and name; `missing` are the
    tables that could not be copied from elsewhere."""

    texts: Mapping[tuple[str, str], str]
    rules: Mapping[tuple[str, str, int], Rule]
    chains: Mapping[str, str]
    """Our base chains with their hooks."""
    missing: tuple[str, ...] = ()

    def load(self) -> tuple[str, ...]:
        """Into the network namespace of the caller. Returns the tables that nft does not take back.
        ToolError when ours is one of them."""
        context = open_context()
        missing = []
        for (family, name), text in self.texts.items():
            status, _, errors = context.cmd(text)
            if status != 0 and family == FAMILY and name in TABLES:
                argv = ("nft", "-f", "-")
                raise ToolError(argv, f"nft does not accept our table: {first_line(errors)}")
            missing += [f"{family} {name}"] if status != 0 else []
        return tuple(missing)

    def mark(self, text: str) -> None:
        """One more table, which decides nothing."""
        run(open_context(), text, "trace", ("nft", "-f", "-"))


def read_ruleset(missing: tuple[str, ...] = ()) -> Ruleset:
    """Everything in the network namespace of the caller. ToolError without our table, or without root."""
    context = open_context()

    def ask(command: str, *, as_json: bool) -> str:
        context.set_json_output(as_json)
        return run(context, command, command, ("nft", *command.split()))

    read_table()  # ours is there, or says why not
    entries = entries_of(ask("list ruleset", as_json=True))
    places = [(str(body["family"]), str(body["name"])) for kind, body in entries if kind == "table"]
    return Ruleset(
        {place: ask(f"list table {place[0]} {place[1]}", as_json=False) for place in places},
        {
            (str(body["family"]), str(body["table"]), int(str(body["handle"]))): parse_rule(body)
            for kind, body in entries
            if kind == "rule"
        },
        {
            str(body["name"]): str(body["hook"])
            for kind, body in entries
            if kind == "chain" and body["family"] == FAMILY and body["table"] in TABLES and "hook" in body
        },
        missing,
    )
