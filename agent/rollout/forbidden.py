# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that stay open although the rules that are in force now would not let them in."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agent.adapters import connections, iproute
from agent.adapters.ruleset_dump import read_table
from agent.adapters.signals import interruptible
from agent.core.roles import RuleSet
from agent.errors import HafwError, ToolError
from agent.rollout.active import Checked, OnDisk, checked
from agent.rollout.generations import Generation, Generations, Pending
from agent.rules.connections import find_forbidden
from agent.rules.delta import model_of

MAX_COUNTED = 50_000
"""Reading more connections than that takes seconds; only --cut is worth them."""


@dataclass(frozen=True, slots=True)
class Applied:
    """`by_agent`: the resident agent has loaded it; else this process did."""

    generation: Generation
    before: Generation | None
    by_agent: bool
    pending: Pending | None = None
    forbidden: int | None = None
    """Connections that stay open although these rules would not let them in; None: they were not counted."""
    cut: int | None = None
    """How many of them were ended here."""


def with_forbidden(generations: Generations, applied: Applied, new: Checked, *, cut: bool) -> Applied:
    """On the primary alone: a backup has copies of the primary's connections."""
    many = not cut and connections.count() > MAX_COUNTED
    undone = "no connection was ended" if cut else "its connections were not counted"
    with _in_force_all_the_same(generations, applied, undone, cut=cut):
        if _loaded_role(new, cut=cut) is not RuleSet.PRIMARY or many:
            return applied
        table = model_of(new.table.objects(RuleSet.PRIMARY))
        with interruptible():
            forbidden = find_forbidden(table, connections.read_states(), iproute.read_ways())
        # that took its time, and the lock is free
        if _loaded_role(new, cut=cut) is not RuleSet.PRIMARY:
            return applied
    if not cut:
        return replace(applied, forbidden=len(forbidden))
    with _in_force_all_the_same(
        generations, applied, "not every connection that it forbids was ended", cut=cut
    ):
        return replace(applied, forbidden=len(forbidden), cut=connections.end_states(forbidden))


@contextlib.contextmanager
def _in_force_all_the_same(
    generations: Generations, applied: Applied, undone: str, *, cut: bool
) -> Iterator[None]:
    """What ends in here ends when `applied` was put in force, and its message says so."""
    try:
        yield
    except (HafwError, KeyboardInterrupt) as error:
        why, hint = (error.message, error.hint) if isinstance(error, HafwError) else ("interrupted", None)
        text = f"generation {applied.generation.number} was put in force, but {undone}: {why}"
        again = "apply it once more with --cut"
        waits = generations.pending()  # it may have been confirmed meanwhile, or rolled back
        if waits is not None and waits == applied.pending:
            text += f"; {waits.describe()}"
            again = f"when it is confirmed, {again}"
        raise HafwError(text, again if cut else hint) from error


def _loaded_role(new: Checked, *, cut: bool) -> RuleSet | None:
    """The role that the kernel has `new` in. Raises HafwError where other rules are loaded: of the next
    command, or the earlier ones, because nobody has confirmed. None where none can be read, and nothing is
    to be cut: another program may have flushed them this moment."""
    try:
        loaded = read_table()
    except ToolError:
        if cut:
            raise
        return None
    if loaded.digest != new.rules:
        raise HafwError("other rules are loaded by now", "see: hafw rules generations")
    return loaded.rules


def look_again(on_disk: OnDisk, applied: Applied, *, cut: bool) -> Applied:
    """`applied`, which is in force, with the connections that it does not allow. Raises HafwError, which
    says that it is in force all the same."""
    new = checked(on_disk.pair_of(applied.generation), applied.generation.files)
    return with_forbidden(on_disk.generations, applied, new, cut=cut)


def cut_forbidden(on_disk: OnDisk) -> int | None:
    """End the connections that the rules in force do not allow; how many. None on a backup."""
    in_force = on_disk.find_in_force()
    if in_force is None:
        return None
    return look_again(on_disk, Applied(in_force, None, by_agent=False), cut=True).cut
