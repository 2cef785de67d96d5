# SPDX-License-Identifier: GPL-2.0-or-later
"""libnftables, and what it lists of our tables. nftables.py describes what it does with changes.

Hard facts
* A context is bound to the network namespace of the thread that made it, and not safe for two threads.
* A listing of a table reads the elements of all its sets, even when it is told to leave them out (1.0.6, not
  1.1.3): 0.4 s and 40 MB for a set of 65,535 that outsiders have filled. One of all tables of a family
  leaves them unread in 0.3 ms; `list set` reads no other set and no rules.
* 1.0.6 prints a table that has an owner as garbage, in `list tables` and `list ruleset` too, so that the
  answer is no JSON: then our own tables are listed alone.
* Two `list` commands in one call get no answer.
* A process without CAP_NET_ADMIN gets an answer, and a line on its standard error as well, past every
  setting.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import nftables

from agent.errors import ToolError
from agent.rules.listing import is_ours
from agent.rules.nft_json import list_text
from agent.rules.nft_parse import Entry, entries_of, parse_object
from agent.rules.objects import GATE_TABLE, TABLE, Map, Set

NFT = ("nft", "-j", "-f", "-")
_CAP_NET_ADMIN = 1 << 12


class Context(Protocol):
    """What we use of python3-nftables."""

    def set_json_output(self, val: bool) -> object: ...
    def set_dry_run(self, onoff: bool) -> object: ...
    def set_handle_output(self, val: bool) -> object: ...
    def set_terse_output(self, val: bool) -> object: ...
    def set_numeric_proto_output(self, val: bool) -> object: ...
    def cmd(self, cmdline: str) -> tuple[int, str, str]: ...


def open_context() -> Context:
    """Of the network namespace of this thread."""
    opened: Context = nftables.Nftables() if _may_ask() else _Refused()
    return opened


def open_json_context() -> Context:
    """Likewise; it answers in JSON."""
    opened = open_context()
    opened.set_json_output(True)
    return opened


def _may_ask() -> bool:
    """Whether this thread has CAP_NET_ADMIN, in whatever user namespace."""
    try:
        lines = Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return True  # libnftables and the kernel have the last word
    for line in lines:
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_NET_ADMIN)
    return True


class _Refused:
    """What an ordinary user gets."""

    def set_json_output(self, _: bool) -> None: ...
    def set_dry_run(self, _: bool) -> None: ...
    def set_handle_output(self, _: bool) -> None: ...
    def set_terse_output(self, _: bool) -> None: ...
    def set_numeric_proto_output(self, _: bool) -> None: ...
    def cmd(self, _: str) -> tuple[int, str, str]:
        return -1, "", os.strerror(errno.EPERM)


def run(context: Context, text: str, purpose: str, argv: tuple[str, ...] = NFT) -> str:
    """What nft answers. `purpose` is what it cannot do when it fails: ToolError."""
    try:
        status, output, errors = context.cmd(text)
    except UnicodeDecodeError as error:
        raise ToolError(argv, f"nft cannot {purpose}: its answer is not UTF-8") from error
    if status == 0 and "Error" not in errors:
        return output
    reason = first_line(errors)
    raise ToolError(
        argv,
        f"nft cannot {purpose}: {reason}",
        exit_status=status,
        stderr=errors,
        retryable="busy" in reason or "temporarily" in reason,
        hint=_hint(reason),
    )


def find(context: Context, text: str, what: str, argv: tuple[str, ...] = NFT) -> str | None:
    """What nft lists; None when it is not there. ToolError as run()."""
    try:
        return run(context, text, f"list {what}", argv)
    except ToolError as error:
        if is_missing(error):
            return None
        raise


def is_missing(error: ToolError) -> bool:
    """Whether nft has not found something that it was asked for."""
    return os.strerror(errno.ENOENT) in error.message


def _hint(reason: str) -> str | None:
    if "not permitted" in reason:
        return "look for another program that owns the table" if _may_ask() else "run as root"
    return None


def first_line(errors: str) -> str:
    """The reason in what nft says of a failure."""
    line = next((line.strip() for line in errors.splitlines() if line.strip()), "it gave no reason")
    return line.removeprefix("internal:0:0-0: ").removeprefix("Error: ")


def list_ours(context: Context, *, lean: bool) -> list[Entry] | None:
    """The entries of our tables; None when they are not there. `lean`: without the elements that come and go
    with the packets, however many. ValueError when the answer is none, ToolError as run()."""
    if lean:
        with suppress(ValueError, ToolError):
            return _list_lean(context)
    table = _find_table(context, TABLE)
    gate = _find_table(context, GATE_TABLE) if table is not None else None
    if table is None or (gate is None and _find_table(context, TABLE) is None):
        return None  # or both went between the two readings
    return [*_entries(table), *(_entries(gate) if gate else ())]


def _list_lean(context: Context) -> list[Entry] | None:
    context.set_terse_output(True)
    try:
        text = find(context, list_text("ruleset"), "the table")
    finally:
        context.set_terse_output(False)
    entries = [(kind, body) for kind, body in _entries(text or "") if is_ours(kind, body)]
    if not any(kind == "table" and body["name"] == TABLE for kind, body in entries):
        return None
    filled = (_fill(context, kind, body) for kind, body in entries)
    return [entry for entry in filled if entry is not None]


def _fill(context: Context, kind: str, body: Mapping[str, object]) -> Entry | None:
    """An entry of a lean listing with the elements that last. None when it went meanwhile."""
    found = parse_object(kind, body) if kind in ("set", "map") else None
    if not isinstance(found, Set | Map) or found.is_moving:
        return kind, body
    text = find(context, list_text(kind, table=found.table, name=found.name), "the table")
    return next((entry for entry in _entries(text) if entry[0] == kind), None) if text else None


def _entries(text: str) -> Iterator[Entry]:
    return ((kind, body) for kind, body in entries_of(text) if kind != "metainfo")


def _find_table(context: Context, name: str) -> str | None:
    return find(context, list_text("table", name=name), "the table")
