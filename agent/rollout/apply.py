# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a policy: from a file to the rules in force, and back by itself without a confirmation.

    apply    check -> generation on disk -> (timer, pending) -> pair file in place -> live
    confirm  pending goes, and the timer with it
    else     timer, or the agent's start after a boot -> the generation before in place -> live

A kill or a power cut after any of these steps leaves the old rules or the new ones, because nft's
transaction is one, and every file is there as it was or as it is to be. What was begun is brought to its end
by the next process: a command, the timer, or the agent at its start. Ctrl-C and its like come before the
first of these steps or not at all; when the rules are in force, they end the count of connections, and
nothing else.
"""

import contextlib
import os
import pwd
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.adapters import control, rollback_timer
from agent.adapters.journal import open_sink
from agent.adapters.lock import BusyError, hold_lock, make_run_dir
from agent.adapters.nftables import Nftables
from agent.adapters.signals import finish_command
from agent.config import loader
from agent.config.files import Files, PairFiles, read
from agent.core.roles import RuleSet
from agent.errors import ConfigError, HafwError, ToolError, UnavailableError
from agent.file_cures import cure_of
from agent.model.pair import Pair
from agent.model.records import Record, RecordKind
from agent.paths import Paths
from agent.render import conntrackd, keepalived
from agent.render.networkd import tunnel_files
from agent.rollout.active import Checked, OnDisk, adapter_of, check, checked, note_in_force, remember
from agent.rollout.forbidden import Applied, with_forbidden
from agent.rollout.generations import Generation, Generations, Pending, boot_id, same_files

LOCK_WAIT_S = 5.0
UNCONFIRMED_WAIT_S = 60.0
"""How long the rollback waits for another command; it is not to be lost to one."""
DIRECT_WAIT_S = 2.0
MAX_HURRIED_S = 0.05
TRIES = 5
_NETWORKD = "systemd-networkd"


def require_same_wires(old: Pair, new: Pair, paths: Paths) -> None:
    """Raises HafwError when `new` wants another keepalived.conf or conntrackd.conf than `old`, or other
    tunnels."""
    daemon = find_other_wires(old, new, paths)
    if daemon is not None:
        raise HafwError(*_other_wires(daemon))


def find_other_wires(old: Pair, new: Pair, paths: Paths) -> str | None:
    """The daemon whose configuration `new` wants changed."""
    for node in old.nodes:
        for daemon, render in (("keepalived", keepalived.render), ("conntrackd", conntrackd.render)):
            if new.node(node.name) is None or render(old, node.name, paths) != render(new, node.name, paths):
                return daemon
        if tunnel_files(old, node.name, paths, {}) != tunnel_files(new, node.name, paths, {}):
            return _NETWORKD
    return None


def _other_wires(daemon: str) -> tuple[str, str]:
    wanted = "other tunnels than those" if daemon == _NETWORKD else f"another {daemon}.conf than the one"
    return (
        f"this pair file needs {wanted} in force; only rules can change while {daemon} runs",
        "install it by `hafw setup` on both nodes, the backup first",
    )


def refusal_of(on_disk: OnDisk, pair: Pair) -> str | None:
    """Why apply() would refuse a good pair file, whose rules the kernel takes; None when it would not."""
    paths = on_disk.paths
    before = on_disk.find_in_force() or on_disk.generations.newest()
    try:
        old = on_disk.pair_of(before) if before else loader.parse_files(on_disk.read(paths.pair_file))
    except HafwError:
        return None  # with nothing to compare it is as good as it looks
    daemon = find_other_wires(old, pair, paths)
    return "; ".join(_other_wires(daemon)) if daemon is not None else None


@dataclass(frozen=True, slots=True)
class Order:
    """How a pair file is to be put in force. With `confirm_s` the one before comes back after that many
    seconds unless confirm() is called. `number`: the lowest that a new generation may have, so that both
    nodes give it the same. `cut`: end the connections that are not allowed any more."""

    confirm_s: int | None = None
    cut: bool = False
    number: int = 0
    who: str | None = None
    """Default: whoever runs this process."""
    why: str = "apply"
    count: bool = True
    """Look for connections that are not allowed any more."""


def apply(paths: Paths, pair_file: Path, order: Order) -> Applied:
    """The pair file at `pair_file` in place of the one that is installed, in force on this node. Raises
    HafwError; what was in force stays in force then, unless the message says otherwise."""
    confirm_s = order.confirm_s
    with _one_at_a_time(paths, LOCK_WAIT_S) as on_disk:
        generations = on_disk.generations
        require_none_pending(generations)
        new = check(on_disk.read(pair_file))
        _require_loadable(new)
        before = _find_before(on_disk, pair_file)
        if before is not None and not same_files(before.files, new.files):
            require_same_wires(on_disk.pair_of(before), new.pair, paths)
        if confirm_s is not None and before is None:
            raise HafwError("there is nothing that could come back", "apply without --confirm")
        finish_command()
        fresh = generations.note(new.files, order.who or who(), order.why, new.rules, order.number)
        with _taken_back(on_disk, fresh, before):
            applied = _put_in_force(on_disk, fresh, before, new, confirm_s)
    # many connections take minutes, and the rollback waits for the lock
    return with_forbidden(generations, applied, new, cut=order.cut) if order.count else applied


def _put_in_force(
    on_disk: OnDisk, fresh: Generation, before: Generation | None, new: Checked, confirm_s: int | None
) -> Applied:
    generations, pending = on_disk.generations, None
    if confirm_s is not None and before is not None and fresh != before:
        pending = _set_pending(generations, fresh, before, confirm_s)
    generations.install(fresh.number, on_disk.paths.pair_file)
    by_agent = make_live(on_disk, new)
    return Applied(fresh, before, by_agent, _begin_window(generations, pending, confirm_s))


def confirm(paths: Paths) -> Pending:
    """Raises HafwError when nothing waits, or not any more, or what waits is not what is in force."""
    with _one_at_a_time(paths, LOCK_WAIT_S) as on_disk:
        pending = on_disk.generations.pending()
        if pending is None:
            raise HafwError("no apply is waiting for confirmation")
        _keep(on_disk, pending)
        return pending


def confirm_number(paths: Paths, number: int) -> None:
    """That generation and no other one; it may be in force and not wait any more. Raises HafwError as
    confirm()."""
    with _one_at_a_time(paths, LOCK_WAIT_S) as on_disk:
        pending = on_disk.generations.pending()
        if pending is not None and pending.number == number:
            _keep(on_disk, pending)
        else:
            _require_number(on_disk, number)


def _keep(on_disk: OnDisk, pending: Pending) -> None:
    _require_in_force(on_disk, pending)
    finish_command()
    _end_waiting(on_disk.generations)


def _end_waiting(generations: Generations) -> None:
    generations.clear_pending()
    rollback_timer.stop()


def _require_number(on_disk: OnDisk, number: int) -> None:
    there = _find_other(on_disk, number)
    if there is not None:
        raise HafwError(
            f"generation {number} is not in force any more: {there}", "see: hafw rules generations"
        )


def _find_other(on_disk: OnDisk, number: int) -> str | None:
    """What is in force instead of generation `number`; None when that one is."""
    found = on_disk.find_in_force()
    if found is None:
        return "the kernel has no rules of ours"
    return None if found.number == number else f"generation {found.number} is"


def take_back(paths: Paths, number: int, order: Order) -> Applied | None:
    """Generation `number`, if it waits for its confirmation; None when it does not, or not any more: what is
    in force then stays."""
    with _one_at_a_time(paths, LOCK_WAIT_S) as on_disk:
        generations = on_disk.generations
        pending = generations.pending()
        if pending is None or pending.number != number:
            return None
        target = generations.require(pending.back_to)
        applied = _go_to(on_disk, target, order, checked(on_disk.pair_of(target), target.files))
        _end_waiting(generations)
        return applied


def target_of(on_disk: OnDisk, number: int | None) -> Generation:
    """What roll_back() goes to: without `number` what is before the pending apply, or else before what is in
    force."""
    pending = on_disk.generations.pending()
    wanted = pending.back_to if pending is not None and number is None else number
    return _find_earlier(on_disk) if wanted is None else on_disk.generations.require(wanted)


def roll_back(paths: Paths, number: int | None) -> Applied:
    """To a generation, as target_of() finds it. A pending apply ends by it."""
    with _one_at_a_time(paths, LOCK_WAIT_S) as on_disk:
        generations = on_disk.generations
        pending = generations.pending()
        target = target_of(on_disk, number)
        new = checked(on_disk.pair_of(target), target.files)
        _require_loadable(new)
        applied = _go_to(on_disk, target, Order(why=f"rollback to generation {target.number}"), new)
        if pending is not None:
            _end_waiting(generations)
        return applied


def roll_back_unconfirmed(paths: Paths, identity: str, after_s: float) -> Applied | None:
    """What the timer calls. None when that apply was confirmed or ended otherwise. With `after_s` it waits,
    and keeps waiting until the apply is due: its window begins when the rules are in force."""
    time.sleep(after_s)
    while True:
        with _one_at_a_time(paths, UNCONFIRMED_WAIT_S, finish=False) as on_disk:
            pending = on_disk.generations.pending()
            if pending is None or pending.identity != identity:
                return None
            if not after_s or pending.is_due():
                return _go_back(on_disk, pending)
            left_s = pending.remaining_s()
        time.sleep(max(left_s, MAX_HURRIED_S))


def _go_back(on_disk: OnDisk, pending: Pending) -> Applied:
    target = on_disk.generations.require(pending.back_to)
    why = f"generation {pending.number} was not confirmed: back to generation {target.number}"
    try:
        applied = _go_to(on_disk, target, Order(who="hafw", why=why))
    except HafwError as error:
        # the output of this process is not read; what waits stays waiting for the next command or start
        _record(on_disk.paths, f"{why}, which failed: {error}")
        raise
    on_disk.generations.clear_pending()
    return applied


def recover(paths: Paths) -> None:
    """At the agent's start, before it reads the pair file. Says in records what it did, or could not, and
    which generations it skips."""
    generations = Generations(paths.state_dir)
    try:
        done = generations.finish(paths.pair_file)
        unusable = generations.unusable()
    except HafwError as error:
        _record(paths, f"cannot look for an unfinished apply: {error}")
        return
    if done is not None:
        _record(paths, done)
    for reason in unusable:
        _record(paths, f"{reason}; this generation is skipped")


def make_live(on_disk: OnDisk, new: Checked | None = None) -> bool:
    """The installed pair file in force: True by the agent, False without one. HafwError when neither can.
    `new` is what was installed, where that was checked already; the agent reads the file for itself."""
    paths = on_disk.paths
    for _ in range(TRIES):
        try:
            answer = control.ask_reload(paths.control_socket)
        except UnavailableError:
            try:
                with hold_lock(paths.lock, DIRECT_WAIT_S):
                    _load_directly(on_disk, check(read(paths.pair_file)) if new is None else new)
                    return False
            except BusyError:
                continue  # it has just started, or a hook's run will be done in a moment
        if "error" in answer:
            raise HafwError(str(answer["error"]))
        return True
    raise HafwError("the agent on this node does not answer", "systemctl restart hafw-agent")


def _load(rules: Nftables, wanted: RuleSet) -> None:
    """Another program may flush everything at the very moment that it is read back."""
    for left in reversed(range(TRIES)):
        try:
            rules.load(wanted)
            return
        except ToolError as error:
            if not error.retryable or not left:
                raise


def _load_directly(on_disk: OnDisk, new: Checked) -> None:
    rules = adapter_of(on_disk, new.table)
    _load(rules, rules.read().rules or RuleSet.BACKUP)
    remember(on_disk.paths, rules)
    _, noted = note_in_force(on_disk.generations, "loaded without an agent", new.files, new.rules)
    _record(on_disk.paths, noted)


@contextlib.contextmanager
def _one_at_a_time(paths: Paths, wait_s: float, *, finish: bool = True) -> Iterator[OnDisk]:
    """What an earlier command left half done is done first."""
    make_run_dir(paths)
    with hold_lock(paths.rules_lock, wait_s):
        on_disk = OnDisk(paths)
        if finish and on_disk.generations.is_unfinished():
            finish_command()
            done = on_disk.generations.finish(paths.pair_file)
            if done is not None:
                _record(paths, done)
                make_live(on_disk)
        yield on_disk


def require_none_pending(generations: Generations) -> None:
    pending = generations.pending()
    if pending is not None:
        raise HafwError(
            f"generation {pending.number} is waiting for confirmation ({pending.remaining_s():.0f} s left)",
            "hafw rules confirm, or hafw rules rollback",
        )


def _require_in_force(on_disk: OnDisk, pending: Pending) -> None:
    """A kill may have come between the note that it waits and its being put in force."""
    there = _find_other(on_disk, pending.number)
    if there is not None:
        raise HafwError(
            f"generation {pending.number} waits for confirmation, but is not in force: {there}",
            f"go back to generation {pending.back_to} with: hafw rules rollback",
        )


def _require_loadable(new: Checked) -> None:
    Nftables(new.table).check(RuleSet.BACKUP)


def _find_before(on_disk: OnDisk, pair_file: Path) -> Generation | None:
    """What comes back when an apply is not confirmed; the installed file where none was kept yet."""
    found, installed = on_disk.find_in_force(), on_disk.paths.pair_file
    if found is not None or on_disk.is_installed(pair_file) or not installed.exists():
        return found or on_disk.generations.newest()
    there = check(on_disk.read(installed))
    return on_disk.generations.note(there.files, "hafw", "found in place", there.rules)


def _set_pending(generations: Generations, fresh: Generation, before: Generation, confirm_s: int) -> Pending:
    """The timer first: a timer without its apply does nothing, an apply without its timer would stay."""
    identity = uuid.uuid4().hex[:12]
    rollback_timer.start(identity, confirm_s)
    deadline_s = time.clock_gettime(time.CLOCK_BOOTTIME) + confirm_s
    pending = Pending(identity, fresh.number, before.number, deadline_s, boot_id())
    generations.set_pending(pending)
    return pending


def _begin_window(
    generations: Generations, pending: Pending | None, confirm_s: int | None
) -> Pending | None:
    """Again, now that the rules are in force: loading many took some of it, or all."""
    if pending is None or confirm_s is None:
        return pending
    begun = replace(pending, deadline_s=time.clock_gettime(time.CLOCK_BOOTTIME) + confirm_s)
    generations.set_pending(begun)
    return begun


@contextlib.contextmanager
def _taken_back(on_disk: OnDisk, fresh: Generation, before: Generation | None) -> Iterator[None]:
    """What failed in here has not been. The first error is the one that is raised."""
    found = _readable(on_disk.read, on_disk.paths.pair_file)
    try:
        with _explained():
            yield
    except HafwError as error:
        if fresh == before:
            raise
        left = _take_back(on_disk, fresh, before, found)
        if left:
            raise HafwError(f"{error}; and it could not be taken back: {'; '.join(left)}") from error
        raise


def _take_back(
    on_disk: OnDisk, fresh: Generation, before: Generation | None, found: Files | None
) -> list[str]:
    """Each step is tried even if others failed; returns why those did. The files come first: a kill before
    they are back must leave the timer. What waits for its confirmation is `fresh`, or stays waiting."""
    generations, left = on_disk.generations, list[str]()
    pending: Pending | None = None
    with _noted(left):
        _restore_files(on_disk, before, found)
    with _noted(left):
        pending = generations.find_pending()
    if pending is not None and pending.number == fresh.number:
        with _noted(left):
            generations.clear_pending()
        with _noted(left):
            rollback_timer.stop()
    with _noted(left):
        generations.drop(fresh.number)
    return left


@contextlib.contextmanager
def _noted(left: list[str]) -> Iterator[None]:
    try:
        with _explained():
            yield
    except HafwError as error:
        left.append(str(error))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What any call may raise, and no adapter expects: no more files can be opened, for example."""
    try:
        yield
    except OSError as error:
        call = "a call" if error.filename is None else f"a call for {error.filename}"
        text = f"the kernel refused {call}: {error.strerror or error}"
        raise HafwError(text, cure_of(error)) from error


def _restore_files(on_disk: OnDisk, before: Generation | None, found: Files | None) -> None:
    """A file that was edited in its place stays as it is, and one that nothing was written to: it is as it
    was `found`."""
    if before is None or _readable(read, on_disk.paths.pair_file) == found:
        on_disk.generations.leave_installing()
        return
    on_disk.generations.install(before.number, on_disk.paths.pair_file)
    make_live(on_disk, checked(on_disk.pair_of(before), before.files))


def _readable(read_file: Callable[[Path], PairFiles], path: Path) -> Files | None:
    """None where there is no pair file, or none that can be read."""
    try:
        return read_file(path).readable
    except ConfigError:
        return None


def _go_to(on_disk: OnDisk, target: Generation, order: Order, new: Checked | None = None) -> Applied:
    """`new` is what `target` describes, where that was checked already."""
    before = on_disk.find_in_force()
    finish_command()
    generations = on_disk.generations
    fresh = generations.add(target.files, order.who or who(), order.why, target.rules, order.number)
    with _taken_back(on_disk, fresh, before):
        on_disk.generations.install(fresh.number, on_disk.paths.pair_file)
        return Applied(fresh, before, make_live(on_disk, new))


def _find_earlier(on_disk: OnDisk) -> Generation:
    now = on_disk.find_in_force() or on_disk.generations.newest()
    for one in on_disk.generations.newest_first():
        if now is not None and one.number < now.number and not same_files(one.files, now.files):
            return one
    raise HafwError("there is no earlier generation to go back to", "see: hafw rules generations")


def who() -> str:
    """Runs this process."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _record(paths: Paths, text: str) -> None:
    open_sink(paths).write(Record(RecordKind.RULES, text, time.monotonic_ns()))
