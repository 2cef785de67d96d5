# SPDX-License-Identifier: GPL-2.0-or-later
"""One change for both nodes: both check, both load, and one of them failing takes the other back.

    check    here, then there: nothing is changed yet
    apply    there, then here; each goes back by itself unless it is confirmed within its window
    confirm  there, then here

The windows are those of `hafw rules apply --confirm`: each belongs to its node alone, so whatever dies after
the first step (a node, an agent, the channel, this command), both have the rules from before in the end.
Only what comes between the two confirmations can leave them with different rules, which both nodes then tell
(`rules-differ`). A generation is always named by its number, which is the same on both.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.adapters.nftables import Nftables
from agent.adapters.signals import finish_command
from agent.core.roles import RuleSet
from agent.errors import HafwError
from agent.paths import Paths
from agent.rollout.active import Checked, OnDisk, check
from agent.rollout.apply import (
    Order,
    apply,
    confirm_number,
    refusal_of,
    require_none_pending,
    take_back,
    target_of,
)
from agent.rollout.forbidden import Applied, look_again
from agent.rollout.generations import Pending, same_files
from agent.rollout.peer_node import PeerNode
from agent.rollout.request import MAX_AHEAD, Request, RulesAnswer, RulesVerb
from agent.rollout.staged import staged

GUARD_S = 300
"""The window of an apply that needs no confirmation of people: longer than any answer may take."""


@dataclass(frozen=True, slots=True)
class AppliedOnBoth:
    """`peer`: the name of the other node, if that was changed as well. `ended_there`: connections that were
    ended on it."""

    own: Applied
    peer: str | None
    ended_there: int | None = None


def apply_on_both(paths: Paths, pair_file: Path, order: Order, peer: PeerNode) -> AppliedOnBoth:
    """Raises HafwError; its message says what became of both nodes."""
    on_disk = OnDisk(paths)
    new = check(on_disk.read(pair_file))
    number = _agree(on_disk, new, peer)
    finish_command()
    window_s = order.confirm_s or GUARD_S
    here = replace(order, confirm_s=window_s, cut=False, number=number, count=False)
    with _taken_back(peer, number, window_s):
        theirs = _ask(peer, Request(RulesVerb.APPLY, peer.who, number, new.files, window_s, order.why))
        if number and theirs.newest != number:
            raise HafwError(f"{peer.name} numbers its generations in another way", "apply it again")
        with staged(paths, new.files) as checked_file:  # an editor may have saved another one meanwhile
            own = apply(paths, checked_file, here)
    if order.confirm_s is None and number:
        own = _confirm(paths, own, peer, number)
    with _in_force_on_both(peer, number):
        own = look_again(OnDisk(paths), own, cut=order.cut)
        ended = _ask(peer, Request(RulesVerb.CUT, peer.who)).ended if order.cut else None
    return AppliedOnBoth(own, peer.name, ended)


def roll_back_on_both(paths: Paths, number: int | None, peer: PeerNode) -> AppliedOnBoth:
    """Where a generation waits for its confirmation here, that one is rolled back on both; else as
    apply_on_both() with the files of the earlier one."""
    on_disk = OnDisk(paths)
    pending = on_disk.generations.pending()
    if pending is not None and number is None:
        finish_command()
        _ask(peer, Request(RulesVerb.BACK, peer.who, pending.number, why="rollback"))
        order = Order(why=f"rollback to generation {pending.back_to}")
        with _done_there(f"{peer.name} has gone back"):
            own = take_back(paths, pending.number, order)
        if own is None:
            raise HafwError(
                f"generation {pending.number} has just gone back by itself, here and on {peer.name}"
            )
        return AppliedOnBoth(own, peer.name)
    target = target_of(on_disk, number)
    order = Order(why=f"rollback to generation {target.number}")
    with staged(paths, target.files) as pair_file:
        return apply_on_both(paths, pair_file, order, peer)


def confirm_on_both(paths: Paths, peer: PeerNode) -> Pending:
    """Raises HafwError when nothing waits here, or the other node cannot be asked or has gone back."""
    pending = OnDisk(paths).generations.pending()
    if pending is None:
        raise HafwError("no apply is waiting for confirmation")
    finish_command()
    _ask(peer, Request(RulesVerb.CONFIRM, peer.who, pending.number))
    with _done_there(f"generation {pending.number} stays in force on {peer.name}"):
        confirm_number(paths, pending.number)
    return pending


def _agree(on_disk: OnDisk, new: Checked, peer: PeerNode) -> int:
    """The number of the generation on both nodes: 0 where both have it in force already. Raises HafwError
    when one of them would refuse it; nothing is changed then."""
    require_none_pending(on_disk.generations)
    Nftables(new.table).check(RuleSet.BACKUP)
    refusal = refusal_of(on_disk, new.pair)
    if refusal is not None:
        raise HafwError(refusal)
    found = _ask(peer, Request(RulesVerb.CHECK, peer.who, files=new.files))
    if found.waits is not None:
        waiting = f"generation {found.waits} is waiting for confirmation on {peer.name}"
        raise HafwError(waiting, "on that node: hafw rules confirm, or hafw rules rollback")
    newest = on_disk.generations.newest()
    same = newest is not None and same_files(newest.files, new.files) and on_disk.find_in_force() == newest
    own = newest.number if newest is not None else 0
    if found.newest > own + MAX_AHEAD:
        raise HafwError(f"{peer.name} has generation {found.newest}, which is too far from {own} here")
    return 0 if same and found.same and own == found.newest else max(own, found.newest) + 1


@contextlib.contextmanager
def _taken_back(peer: PeerNode, number: int, window_s: int) -> Iterator[None]:
    """What fails in here is taken back on the other node, also where its answer was lost. This node has
    taken back itself what it could not put in force."""
    try:
        yield
    except HafwError as error:
        raise HafwError(f"{error}; {_take_back(peer, number, window_s)}") from error


def _take_back(peer: PeerNode, number: int, window_s: int) -> str:
    if not number:
        return "both nodes have had it in force before"
    try:
        done = _ask(peer, Request(RulesVerb.BACK, peer.who, number, why="the other node could not load it"))
    except HafwError as error:
        return f"if {peer.name} has it, it goes back by itself within {window_s} s ({error})"
    return f"it was taken back on {peer.name}" if done.waits else f"it is not in force on {peer.name}"


def _confirm(paths: Paths, own: Applied, peer: PeerNode, number: int) -> Applied:
    """There first. An answer that is lost leaves it open what the other node has; this one goes back."""
    try:
        _ask(peer, Request(RulesVerb.CONFIRM, peer.who, number))
    except HafwError as error:
        take_back(paths, number, Order(why="the other node could not be asked to keep it"))
        raise HafwError(
            f"{error}; this node has gone back, and {peer.name} does within {GUARD_S} s, unless it "
            "has got the word: then both say that their rules differ",
            "apply it again",
        ) from error
    with _done_there(f"generation {number} stays in force on {peer.name}"):
        confirm_number(paths, number)
    return replace(own, pending=None)


@contextlib.contextmanager
def _done_there(what: str) -> Iterator[None]:
    try:
        yield
    except HafwError as error:
        raise HafwError(f"{what}, but not here: {error.message}", error.hint) from error


@contextlib.contextmanager
def _in_force_on_both(peer: PeerNode, number: int) -> Iterator[None]:
    """What fails in here changes nothing of that."""
    try:
        yield
    except HafwError as error:
        which = f"generation {number}" if number else "it"
        raise HafwError(f"{which} is in force on both nodes; {error.message}", error.hint) from error


def _ask(peer: PeerNode, request: Request) -> RulesAnswer:
    """Raises HafwError when the other node cannot be asked, or says no."""
    found = peer.ask(request)
    if found.error is not None:
        raise HafwError(f"{peer.name}: {found.error}")
    return found
