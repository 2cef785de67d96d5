# SPDX-License-Identifier: GPL-2.0-or-later
"""What nft lists, for a command that asks once: our tables with the words of nft, or every table as it could
be loaded elsewhere. nft_context.py and nftables.py describe how nft behaves.

Hard facts
* The kernel takes any text as a name or a comment. nft's own language has no quotes for names and no escapes
  within quotes, and `nft list` writes both as they are: the name `a; flush ruleset` is two commands there.
* JSON has neither fault, but that of 1.0.6 leaves out what a copy needs: the flag `dynamic` of a set. The
  comments of tables and chains are not in it either, see nft_comments.py.
* No command lists a table by its handle.
"""

import errno
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from agent.adapters.nft_comments import read_quoting
from agent.adapters.nft_context import (
    Context,
    find,
    first_line,
    list_ours,
    open_context,
    open_json_context,
    run,
)
from agent.errors import ToolError
from agent.rules.listing import Listing, listing_of
from agent.rules.nft_parse import Entry, entries_of, listed, parse_rule
from agent.rules.objects import FAMILY, TABLE, TABLES, Rule
from agent.rules.show import rule_texts

_LIST = ("nft", "list", "table", FAMILY, TABLE)
_NAME = re.compile(r"[A-Za-z_.][A-Za-z0-9/_.-]*")
_NAMES = ("family", "table", "name", "chain", "dev")
"""The keys of an entry whose texts are without quotes there."""

_Place = tuple[str, str]
"""A table: its family and its name."""


def read_table() -> Listing:
    """What is loaded, by any program. HafwError when it is not there or we may not look."""
    context = open_json_context()
    try:
        entries = list_ours(context, lean=True)
        return listing_of(entries if entries is not None else _missing(), ())
    except ValueError as error:
        raise _unreadable(_LIST, error) from error


def _unreadable(argv: tuple[str, ...], error: ValueError) -> ToolError:
    return ToolError(argv, f"nft sent an answer that cannot be read back: {error}", retryable=True)


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
class Texts:
    """Every table of a network namespace as nft lists it; None where that text would say something else to
    nft."""

    tables: Mapping[_Place, str | None]

    def load(self) -> tuple[str, ...]:
        """Into the network namespace of the caller. Returns the tables that could not be copied. ToolError
        when ours is one of them."""
        context = open_context()
        missing = []
        for (family, name), text in self.tables.items():
            reason = "its listing does not say the same to nft" if text is None else _load(context, text)
            if reason is not None and _is_ours((family, name)):
                raise ToolError(("nft", "-f", "-"), f"cannot copy table {family} {name}: {reason}")
            missing += [] if reason is None else [f"{family} {name}"]
        return tuple(missing)


def _load(context: Context, text: str) -> str | None:
    """Why nft does not take it, or None."""
    status, _, errors = context.cmd(text)
    return None if status == 0 else first_line(errors)


def mark(text: str) -> None:
    """One more table in the network namespace of the caller, which decides nothing."""
    run(open_context(), text, "trace", ("nft", "-f", "-"))


def read_texts() -> Texts:
    """Of the network namespace of the caller. HafwError without our table, or without root."""
    entries = _list_ruleset()
    context = open_context()
    odd = read_quoting() | {place_of(kind, body) for kind, body in entries if not is_plain(body)}
    places = [place for kind, body in entries if kind == "table" and (place := place_of(kind, body))]
    return Texts({place: None if place in odd else find_text(context, place) for place in places})


def _list_ruleset() -> list[Entry]:
    read_table()  # ours is there, or says why not
    context = open_json_context()
    argv = ("nft", "-j", "list", "ruleset")
    text = run(context, "list ruleset", "list the ruleset", argv)
    try:
        return [(kind, body) for kind, body in entries_of(text) if kind != "metainfo"]
    except ValueError as error:
        raise _unreadable(argv, error) from error


def place_of(kind: str, body: Mapping[str, object]) -> _Place | None:
    """None for an entry of no table, as a newer nft may list."""
    family, name = body.get("family"), body.get("name" if kind == "table" else "table")
    return None if family is None or name is None else (str(family), str(name))


def is_plain(body: Mapping[str, object]) -> bool:
    """Whether nft's own language says the same of an entry as its JSON."""
    names = (str(name) for key in _NAMES for name in listed(body.get(key)))
    return all(_NAME.fullmatch(name) for name in names) and '\\"' not in json.dumps(body)


def find_text(context: Context, place: _Place) -> str | None:
    """None where nft cannot list it, for example for a name that is one of nft's own words. ToolError for
    ours."""
    argv = ("nft", "list", "table", *place)
    try:
        return run(context, " ".join(argv[1:]), f"list table {' '.join(place)}", argv)
    except ToolError:
        if _is_ours(place):
            raise
    return None


def _is_ours(place: _Place) -> bool:
    family, name = place
    return family == FAMILY and name in TABLES


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What a trace is explained by. `missing`: the tables that could not be copied from elsewhere."""

    rules: Mapping[tuple[str, str, int], Rule]
    chains: Mapping[str, str]
    """Our base chains with their hooks."""
    missing: tuple[str, ...]


def read_ruleset(missing: tuple[str, ...]) -> Ruleset:
    """Of the network namespace of the caller. HafwError as read_table()."""
    entries = _list_ruleset()
    return Ruleset(
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
