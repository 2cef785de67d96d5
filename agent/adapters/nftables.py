# SPDX-License-Identifier: GPL-2.0-or-later
"""Our tables in the kernel, through libnftables. `The table` below is both.

Hard facts
* nft 1.0.6 (Debian 12) and 1.1.3 (Debian 13). 1.0.6 knows neither `destroy` nor owner flags, and leaves a
  table's comment out of its JSON.
* python3-nftables is a thin ctypes wrapper without types. Its `json_validate` imports jsonschema; we do not
  call it. Its `json_cmd` lets the JSON parser's exceptions through and returns a string when there is no
  answer; `cmd` with JSON output switched on takes the same input and returns the text.
* With JSON output on, libnftables reads its input as JSON first, and as nft's own language when it is none.
  What we send comes from json.dumps and nothing else.
* A context is bound to the network namespace of the thread that made it, and not safe for two threads. A
  call lets other threads of Python run.
* One call is one transaction: it comes into force as a whole or not at all. With dry run on, the kernel
  checks the transaction and throws it away; a dry run before a load finds nothing that the load itself would
  not, and takes as long.
* A chain may be deleted in the transaction that flushes the rules that jump to it; elements of an interval
  set may be deleted and overlapping ones added in one transaction. A rule may be added with counts.
* Replacing the table opens no hole, but costs packets: about two a load at 80,000 a second (measured on
  kernel 6.18). The new table does not count them, a policy of accept does not save them; cause not known. A
  flip loses none.
* Closing a context after something was removed waits for an RCU grace period (14 ms and more): keep it open.
* rc is 0 for some failures; an `Error` in the error text counts as one too.
* A table that is dormant is woken by adding it again, but gets no base chain in the same transaction.
* A listing reads the whole table, and `add element` every interval set of every table (0.3 s for 50,000
  elements, also in 1.1.3): neither on the way of a handover. `add set` with elements reads none.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from agent.adapters.nft_context import (
    NFT,
    Context,
    is_missing,
    list_ours,
    open_context,
    run,
)
from agent.adapters.packed import Packed
from agent.core.roles import RuleSet
from agent.errors import OvertakenError, ToolError
from agent.rules.compile import Compiled
from agent.rules.delta import compile_change, compile_refill, model_of, touched_parts
from agent.rules.diff import changes, lines_of, to_sentence
from agent.rules.gate import ROLE_CHAINS
from agent.rules.holes import Hole
from agent.rules.listing import Counter, Listing, changed_parts, listing_of
from agent.rules.nft_json import command_text
from agent.rules.objects import FAMILY, GATE_TABLE, TABLE, HelperObject, Table, add


class Apart(Protocol):
    def __call__(self, job: Callable[[], "RulesState"]) -> "RulesState": ...


def in_place(job: Callable[[], "RulesState"]) -> "RulesState":
    return job()


@dataclass(frozen=True, slots=True)
class LoadedRules:
    rules: RuleSet
    digest: str


@dataclass(frozen=True, slots=True)
class Seal:
    """By what a table that was loaded is known again: the digest of what it was made from, which it carries,
    and that of how nft lists it. `sets_lost`: what Nftables.sets_lost was."""

    rules: str
    listed: str
    sets_lost: bool = False


@dataclass(frozen=True, slots=True)
class RulesState:
    """What is loaded. `rules` is None without a table, or when its gate is neither open nor closed as ours
    is."""

    present: bool
    rules: RuleSet | None = None
    digest: str | None = None
    counters: tuple[Counter, ...] = ()
    drift: str | None = None
    """What verify() found wrong, as a sentence; None when all is as we left it. read() does not look."""


@dataclass(slots=True)
class Changes:
    """How often the table was changed, by whichever adapter of this process; odd while one is at it."""

    count: int = 0
    losses: int = 0
    """How often a table was made again: its dynamic sets began empty."""
    made_good: int = 0
    """Of these losses the first so many."""

    @contextmanager
    def one(self) -> Iterator[None]:
        self.count += 1
        try:
            yield
        finally:
            self.count += 1


class Nftables:
    """Loads, flips and reads the tables of one pair. Holds two libnftables contexts open for its whole life:
    one to change things, and one to look, so that verify() may run in another thread (one at a time)."""

    def __init__(
        self,
        table: Compiled,
        context: Context | None = None,
        looking: Context | None = None,
        apart: Apart = in_place,
    ) -> None:
        """Touches nothing in the kernel. `apart` carries out a look at a table that may be large."""
        self._apart = apart
        self._table = table
        self._waking = command_text(add(Table(GATE_TABLE)))
        self._stop_gaps = {hole: command_text(gap) for hole, gap in table.stop_gaps.items()}
        self._flips = {rules: command_text(table.flip(rules)) for rules in RuleSet}
        self._context = open_context() if context is None else context
        self._looking = open_context() if looking is None else looking
        for one in (self._context, self._looking):
            one.set_json_output(True)
        self._changes = Changes()
        model = model_of(table.body)
        self._moving, self._crowded = model.moving, model.crowded
        self._helpers = [one for one in table.body if isinstance(one, HelperObject)]
        self._left: Packed | None = None
        self._before: Nftables | None = None

    def succeed(self, table: Compiled) -> "Nftables":
        """The adapter for another policy, whose first load() changes the table of this one where the
        policies differ: all else keeps its counts and dynamic elements."""
        fresh = Nftables(table, self._context, self._looking, self._apart)
        fresh._changes = self._changes
        # an adapter that never loaded has nothing to hand on, but may have got something itself
        fresh._before = self if self._left is not None else self._before
        return fresh

    def seal(self) -> Seal | None:
        """Of the table that this object has loaded, as it left it. None before the first load."""
        if self._left is None:
            return None
        return Seal(self._table.digest, self._left.fingerprint.whole, self.sets_lost)

    def recognize(self, seal: Seal) -> bool:
        """Whether the kernel still has the table of this pair as another process loaded and sealed it. Then
        it counts as loaded by this object, so that what succeed()s it lets be what stays the same."""
        listing = self._listing()
        if listing is None or (seal.rules, seal.listed) != (self._table.digest, listing.fingerprint.whole):
            return False
        self._left = Packed(listing)
        self._changes.losses += seal.sets_lost
        return True

    @property
    def digest(self) -> str:
        """Of what the table is made from."""
        return self._table.digest

    @property
    def sets_lost(self) -> bool:
        """Whether the dynamic sets were emptied by a load since they were last known to be right."""
        return self._changes.losses > self._changes.made_good

    @property
    def set_losses(self) -> int:
        """How often that has happened."""
        return self._changes.losses

    def sets_are_right(self, losses: int) -> None:
        """What the first so many `losses` have taken is there again."""
        self._changes.made_good = max(losses, self._changes.made_good)

    @property
    def changes(self) -> int:
        """Another number whenever the table was changed by this process."""
        return self._changes.count

    def check(self, rules: RuleSet) -> None:
        """Lets the kernel check the whole table without loading it; ToolError when it would not."""
        self._context.set_dry_run(True)
        try:
            self._run(self._table.text(rules), "check the rules")
        finally:
            self._context.set_dry_run(False)

    def load(self, rules: RuleSet) -> LoadedRules:
        """Puts the table in force in one transaction and reads it back. All that is there already lives on:
        of a table that this one succeed()s, or of its own that another program has edited.

        On ToolError the rules from before are still in force, unless the message is about reading back.
        """
        with self._changes.one():
            listing = self._load_change(rules) or self._repair(rules) or self._load_whole(rules)
            self._before = None
            self._left = None
            if listing is None or listing.digest != self._table.digest or listing.rules is not rules:
                message = f"table {FAMILY} {TABLE} is not what was just loaded into it"
                hint = "look for another program that changes this table"
                raise ToolError(NFT, message, retryable=True, hint=hint)
            self._left = Packed(listing)
        return LoadedRules(rules, self._table.digest)

    def _load_whole(self, rules: RuleSet) -> Listing | None:
        self._run(self._table.text(rules), "load the rules")
        self._changes.losses += 1
        return self._listing()

    def _load_change(self, rules: RuleSet) -> Listing | None:
        """What is there after the predecessor's table was changed in one transaction. None when it was not
        there as it was left, or when more has changed: an external change came between look and load."""
        before = self._before
        there = before._listing() if before is not None else None
        if before is None or there is None or there.rules is None:
            return None
        if before._drift(there, there.rules) is not None:
            return None
        old, new = model_of(before._table.objects(there.rules)), model_of(self._table.objects(rules))
        change = compile_change(old, new, there.counts)
        if not change:
            return None if change is None else there
        try:
            self._run(command_text(change), "change the rules")
        except ToolError:
            return None  # all is as it was; the whole table in place of that says what is wrong
        after = self._listing()
        if after is None or set(changed_parts(there.fingerprint, after.fingerprint)) - touched_parts(change):
            return None
        return after

    def _repair(self, rules: RuleSet) -> Listing | None:
        """What is there after the externally changed parts of our own table were filled again.
        None when there is no such table, or when that has not made it what it was."""
        there = self._listing() if self._left is not None else None
        if self._left is None or there is None or there.digest is None:
            return None
        left = self._left.fingerprint
        parts = changed_parts(left, there.fingerprint)
        refill = compile_refill(model_of(self._table.body), parts)
        try:
            self._run(command_text((*refill, *self._table.flip(rules))), "repair the rules")
        except ToolError:
            return None  # all is as it was; the whole table in place of that says what is wrong
        after = self._listing()
        if after is None or changed_parts(left, after.fingerprint):
            return None
        self._changes.losses += any(f"set {name}" in parts for name in self._moving)
        return after

    def close(self, holes: Collection[Hole]) -> frozenset[Hole]:
        """Stops what `holes` let through, until load(): one small transaction for each, whatever the policy.
        Returns those that were not closed already, Hole.TABLE only when there is no table."""
        with self._changes.one():
            if holes != {Hole.TABLE}:
                self._run(self._waking, "activate the table")
            return frozenset(hole for hole in Hole if hole in holes and self._close(hole))

    def _close(self, hole: Hole) -> bool:
        try:
            self._run(self._stop_gaps[hole], "close the remaining rules")
        except ToolError as error:
            if os.strerror(errno.EEXIST) in error.message:
                return False
            raise
        return True

    def flip(self, rules: RuleSet) -> None:
        """Changes the role of the loaded table in one small transaction; does not look before or after.

        ToolError when the table is missing or was not compiled from this pair: then load() is what helps. A
        table that was edited by hand may pass; verify() finds that.
        """
        with self._changes.one():
            self._run(self._flips[rules], f"switch to the {rules.value}'s rules")

    def read(self) -> RulesState:
        """What is loaded, by any program."""
        return _state(self._listing())

    def verify(self, rules: RuleSet) -> RulesState:
        """read(), with what differs from what this object loaded last and from `rules` in `drift`. May run
        in another thread than all else; OvertakenError when load() or flip() came in between."""
        begun = self._changes.count
        try:
            state = self._apart(lambda: self._look(rules))
        finally:
            if begun % 2 or self._changes.count != begun:
                raise OvertakenError(f"table {FAMILY} {TABLE} was changed while it was read", "ask again")
        return state

    def _look(self, rules: RuleSet) -> RulesState:
        listing = self._listing(self._looking)
        return _state(listing, self._drift(listing, rules))

    def _drift(self, listing: Listing | None, rules: RuleSet) -> str | None:
        if listing is None:
            return f"table {FAMILY} {TABLE} is gone"
        if listing.digest != self._table.digest:
            return f"table {FAMILY} {TABLE} was not made from this pair file"
        if self._left is None:
            return f"table {FAMILY} {TABLE} was not loaded by this process"
        parts = changed_parts(self._left.fingerprint, listing.fingerprint)
        if parts or listing.rules is None:
            role = ROLE_CHAINS if listing.rules is None else ()
            named = ", ".join((*parts, *(f"chain {chain}" for chain in role)))
            found = _difference(self._left, listing, parts)
            text = f"table {FAMILY} {TABLE} was changed by another program: {named}"
            return f"{text} ({found})" if found else text
        if listing.rules is not rules:
            return f"table {FAMILY} {TABLE} has the {listing.rules.value}'s rules, not the {rules.value}'s"
        return None

    def _listing(self, context: Context | None = None) -> Listing | None:
        try:
            entries = list_ours(context or self._context, lean=self._crowded)
            return None if entries is None else listing_of(entries, self._moving)
        except ValueError as error:
            message = f"nft sent an answer that cannot be read back: {error}"
            hint = "see what `nft -j list table inet hafw` says"
            raise ToolError(NFT, message, retryable=True, hint=hint) from error

    def _run(self, text: str, purpose: str) -> None:
        try:
            run(self._context, text, purpose)
        except ToolError as error:
            if HelperObject.kind in text and is_missing(error):
                error.hint = self._lacking()
            raise

    def _lacking(self) -> str | None:
        """The helpers that this kernel does not have, as a hint; nft does not say what it has not found.
        Leaves dry run off."""
        self._context.set_dry_run(True)
        lacking = [
            one.helper
            for one in self._helpers
            if self._context.cmd(command_text(add(Table(TABLE), one)))[0] != 0
        ]
        self._context.set_dry_run(False)
        if not lacking:
            return None
        names = ", ".join(lacking)
        return (
            f"this kernel has no helper {names}: load its module (`hafw render modules`), or do without it"
        )


def _difference(before: Packed, after: Listing, parts: Collection[str]) -> str:
    if not parts:
        return ""
    return to_sentence(changes(lines_of(before.objects(parts)), lines_of(after.objects(parts))))


def _state(listing: Listing | None, drift: str | None = None) -> RulesState:
    if listing is None:
        return RulesState(present=False, drift=drift)
    return RulesState(
        present=True, rules=listing.rules, digest=listing.digest, counters=listing.counters, drift=drift
    )
