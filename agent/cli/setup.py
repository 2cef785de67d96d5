# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw setup`: show what would change, ask once, write, and say what makes it live."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agent.adapters.iproute import HostRoute, read_links, read_routes
from agent.adapters.service import is_systemd_here
from agent.config import loader
from agent.errors import HafwError, ToolError
from agent.installation import is_by_pip
from agent.model.pair import Pair
from agent.paths import Paths
from agent.render.networkd import tunnel_key_file
from agent.setup.changes import FileChange, Kept, diff_of, find_changes, find_target
from agent.setup.hazards import Hazards, advice_for_both, find_hazards, refuse_hazards
from agent.setup.host import find_ssh_session, host_warnings
from agent.setup.notes import Argv, kept_notes, live_commands, rival_notes
from agent.setup.plan import plan_setup
from agent.setup.routes import loss_notes
from agent.setup.write import start_writing, write_change
from agent.streams import complain

_RESTART_LIMIT_S = 120.0
_NO_TUNNELS = (
    "the tunnels over the sync links are made of the key of the pair, which is not here, so that their files"
    " stay as they are: run hafw setup again, on the node itself, when it is"
)


@dataclass(slots=True)
class _Outcome:
    """What --json prints."""

    node: str
    changes: tuple[FileChange, ...]
    notes: tuple[str, ...]
    commands: tuple[Argv, ...]
    hazards: Hazards
    wants_key: bool = False
    fresh_key: str | None = None
    """What the tunnels of this plan are made of, where there was no key before."""
    written: bool = False
    backups: dict[Path, str] = field(default_factory=dict)

    def to_json(self) -> str:
        changes = [
            {
                "path": str(change.path),
                "change": change.kind,
                "diff": diff_of(change),
                "backup": self.backups.get(change.path),
            }
            for change in self.changes
        ]
        if self.wants_key:
            changes.append({"path": str(Paths().pair_key), "change": "create", "diff": "", "backup": None})
        values = {"schema": 1, "node": self.node, "written": self.written, "changes": changes}
        return json.dumps({**values, "notes": self.notes, "commands": [list(one) for one in self.commands]})


def run(
    arguments: argparse.Namespace,
    paths: Paths,
    find_node: Callable[[Pair, str | None], str],
    show: Callable[[str], None],
) -> int:
    """`show` writes to the terminal at once: the question comes after the diff."""
    _check(arguments)
    try:
        return _run(arguments, paths, find_node, show)
    except HafwError as error:
        if not arguments.dry_run:
            raise
        complain(f"hafw: {error}")
        return 2


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot see by itself; ends the program as it would."""
    if arguments.json and not (arguments.yes or arguments.dry_run):
        arguments.refuse("--json asks no question; add --yes or --dry-run")
    if is_by_pip() and arguments.root == Path("/") and not arguments.dry_run:
        arguments.refuse(
            "pip has installed this hafw, without systemd units and keepalived's hook; install the Debian"
            " package (./run deb in a checkout builds it), or look with --dry-run"
        )
    if arguments.restart and arguments.root != Path("/"):
        arguments.refuse("--restart is for this machine, not for one below --root; leave one of them out")
    if arguments.restart and not is_systemd_here():
        arguments.refuse("systemd does not run here, so nothing can be restarted; leave out --restart")
    if not arguments.root.is_dir():
        arguments.refuse(f"{arguments.root} is not a directory; make it first")


def _run(
    arguments: argparse.Namespace,
    paths: Paths,
    find_node: Callable[[Pair, str | None], str],
    show: Callable[[str], None],
) -> int:
    root: Path = arguments.root
    source = arguments.file or root / paths.pair_file.relative_to("/")
    pair, files = loader.load_with_files(source)
    node = find_node(pair, arguments.node)
    # an image that is made below another root would give its key to both nodes
    has_no_key = root == Path("/") and not paths.pair_key.exists()
    # on one node, and always the same: of two that each made one they would not know each other
    first = pair.nodes[0].name
    # another one than that of the tunnels at work, which the other node has, is not made unasked
    wants_key = has_no_key and node == first and not _has_tunnels(pair, paths, root)
    pair_key, fresh_key = (
        _find_tunnel_key(paths, root, wants_key=wants_key) if pair.tunnels else (None, None)
    )
    lacks_key = has_no_key and not wants_key and bool(pair.tunnels)
    if lacks_key and not arguments.dry_run:
        raise _lacking_key(paths, pair.peer_of(node).name, makes_it=node != first)
    plan = plan_setup(pair, node, paths, files, pair_key)
    changes, kept = find_changes(plan, paths, root, arguments.replace)
    hazards = find_hazards(changes, kept, pair, paths)
    notes = (
        *_host_notes(pair, root),
        *([_NO_TUNNELS] if pair.tunnels and pair_key is None else []),
        *hazards.notes(),
        *kept_notes(kept, pair, node, paths),
        *rival_notes(pair, root),
    )
    last = (_take_words(paths, first),) if has_no_key and node != first else ()
    outcome = _Outcome(
        node, changes, (*notes, *last), live_commands(changes, paths), hazards, wants_key, fresh_key
    )
    say = _silent if arguments.json else show
    say("".join(f"{diff_of(change)}\n" for change in changes))
    say("".join(f"note: {note}\n\n" for note in notes))
    if wants_key:
        say(f"{paths.pair_key} is to be made, the key by which the nodes know each other\n")
    if changes or not wants_key:
        say(_summary(changes, kept, node))
    status = 0
    if changes or wants_key or lacks_key:
        status = _settle(arguments, outcome, say)
    say("".join(f"\n{note}" for note in last))
    if arguments.json:
        print(outcome.to_json())
    return status


def _host_notes(pair: Pair, root: Path) -> Iterator[str]:
    """What this host has, where it is the one that is set up."""
    routes: tuple[HostRoute, ...] = ()
    if root == Path("/"):
        try:
            yield from host_warnings(pair, read_links(), find_ssh_session())
            routes = read_routes()
        except ToolError as error:
            yield f"cannot read the network settings here: {error}; look at `ip address` and `ip route`"
    yield from loss_notes(pair, root, routes)


def _silent(_text: str) -> None:
    """--json prints one thing only, at the end."""


def _summary(changes: tuple[FileChange, ...], kept: tuple[Kept, ...], node: str) -> str:
    if not changes:
        but = f", but for {' and '.join(str(file.path) for file in kept)}" if kept else ""
        return f"Nothing to do: every file of {node} is as the pair file wants it{but}.\n"
    words = {"create": "new", "change": "changed", "remove": "removed"}
    counts = ((word, sum(change.kind == kind for change in changes)) for kind, word in words.items())
    return f"{node}: {', '.join(f'{count} {word}' for word, count in counts if count)}.\n"


def _settle(arguments: argparse.Namespace, outcome: _Outcome, say: Callable[[str], None]) -> int:
    if arguments.dry_run:
        return 1
    refuse_hazards(
        outcome.hazards,
        both_together=arguments.both_together,
        drop_others=arguments.drop_others,
        restart=arguments.restart,
    )
    if not arguments.yes and not _is_confirmed(outcome, arguments.restart, say):
        say("Nothing was written.\n")
        return 1
    _write(arguments.root, outcome, say)
    if outcome.wants_key:
        _make_key(outcome, say)
    if arguments.restart:
        _restart(outcome.commands, say)
    elif arguments.root == Path("/") and outcome.changes:
        say(_advice(outcome))
    return 0


def _has_tunnels(pair: Pair, paths: Paths, root: Path) -> bool:
    """Whether a key of one is installed."""
    return any(find_target(tunnel_key_file(paths, one.inside.name), root).exists() for one in pair.tunnels)


def _lacking_key(paths: Paths, peer: str, *, makes_it: bool) -> HafwError:
    from agent.setup import pair_key  # ssl takes a while to load

    return pair_key.lacking_for_tunnels(paths.pair_key, peer, makes_it=makes_it)


def _find_tunnel_key(paths: Paths, root: Path, *, wants_key: bool) -> tuple[str | None, str | None]:
    """The key of the pair, and the same again where it is one that is to be written first. Raises HafwError,
    also where the kernel has no tunnels."""
    from agent.adapters.openssl import make_pair_key
    from agent.adapters.wireguard import MISSING, has_wireguard
    from agent.setup import pair_key

    there = pair_key.find_key(find_target(paths.pair_key, root))
    if root != Path("/"):
        return there, None
    if not has_wireguard():
        hint = "nothing was written; boot a kernel with it, as Debian's, or leave out encrypt"
        raise HafwError(f"{MISSING}, and sync.encrypt of the pair file needs it", hint)
    fresh = make_pair_key() if wants_key else None
    return there or fresh, fresh


def _make_key(outcome: _Outcome, say: Callable[[str], None]) -> None:
    from agent.setup import pair_key  # ssl takes a while to load

    place = Paths().pair_key
    pair_key.make(place, outcome.fresh_key)
    say(f"made {place}\n\n{pair_key.carry_words(place, outcome.node)}")


def _take_words(paths: Paths, first: str) -> str:
    from agent.setup import pair_key  # ssl takes a while to load

    return pair_key.take_words(paths.pair_key, first)


def _is_confirmed(outcome: _Outcome, restart: bool, say: Callable[[str], None]) -> bool:
    if not sys.stdin.isatty():
        raise HafwError(
            "there is no terminal to answer here, so nothing was written",
            "add --yes to write without asking",
        )
    count = len(outcome.changes) + outcome.wants_key
    question = "Write this file" if count == 1 else f"Write these {count} files"
    say(f"{question}{' and restart the daemons' if restart else ''}? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(root: Path, outcome: _Outcome, say: Callable[[str], None]) -> None:
    now = datetime.now(UTC)
    with start_writing(root):
        for change in outcome.changes:
            backup = write_change(change, now)
            done = "removed" if change.new is None else "wrote"
            if backup:
                outcome.backups[change.path] = str(backup)
            say(f"{done} {change.target}{f' (as it was: {backup})' if backup else ''}\n")
    outcome.written = True


def _advice(outcome: _Outcome) -> str:
    if outcome.hazards.speech:
        return advice_for_both(outcome.hazards, outcome.commands)
    lines = "".join(f"    {' '.join(argv)}\n" for argv in outcome.commands)
    return (
        f"\nThese make it live, as root:\n\n{lines}\n"
        "Do all of this on the node that is backup first. When `hafw status` there says that the states\n"
        "are in, do it on the other one, which hands over to its peer.\n"
    )


def _restart(commands: tuple[Argv, ...], say: Callable[[str], None]) -> None:
    # only here: a request for the status of the agent does not wait for these
    import asyncio

    from agent.adapters.process import run as run_process
    from agent.adapters.process import use_pidfd_children

    use_pidfd_children()
    for argv in commands:
        finished = asyncio.run(run_process(argv, timeout_s=_RESTART_LIMIT_S))
        if finished.exit_status != 0:
            raise ToolError(
                argv,
                f"{' '.join(argv)} failed: {finished.stderr.strip()}",
                hint=f"the files are written; correct that (journalctl -u {argv[-1]}), then continue",
            )
        say(f"did {' '.join(argv)}\n")
