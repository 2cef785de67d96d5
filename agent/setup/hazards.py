# SPDX-License-Identifier: GPL-2.0-or-later
"""What writing a file would do to a pair that is at work, and what has to be said before. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import HafwError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.render.networkd import file_name, tunnel_of
from agent.setup.arguments import BOTH_TOGETHER, DROP_OTHERS
from agent.setup.blocks import NotUnderstoodError
from agent.setup.changes import FileChange, Kept, is_made_by_hafw
from agent.setup.foreign import what_would_go
from agent.setup.wire import address_losses, replicates_over, tunnel_differences, wire_differences


@dataclass(frozen=True, slots=True)
class Hazards:
    """`vrrp`, `replication` and `links` (of the files of keepalived, of conntrackd, and of what that
    replicates over) say why a node with the new file and one with the old do not understand each other;
    `going` what else the old keepalived.conf did."""

    vrrp: tuple[str, ...] = ()
    replication: tuple[str, ...] = ()
    going: tuple[str, ...] = ()
    links: tuple[str, ...] = ()

    @property
    def speech(self) -> tuple[str, ...]:
        return (*self.vrrp, *self.replication, *self.links)

    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"{head}:\n\n{_listed(lines)}"
            for head, lines in (
                ("keepalived on the other node would not understand the new keepalived.conf", self.vrrp),
                (
                    "conntrackd on the other node would not understand the new conntrackd.conf",
                    self.replication,
                ),
                ("conntrackd on the other node would not be heard over the sync links any more", self.links),
                ("these go with the old keepalived.conf, and nothing replaces them", self.going),
            )
            if lines
        )


def find_hazards(changes: Collection[FileChange], kept: Iterable[Kept], pair: Pair, paths: Paths) -> Hazards:
    changed = {
        change.path: (change.old.decode(errors="replace"), change.new.decode())
        for change in changes
        if change.old and change.new
    }
    vrrp: tuple[str, ...] = ()
    going: tuple[str, ...] = ()
    if keepalived := changed.get(paths.keepalived_config):
        vrrp, going = _of_keepalived(*keepalived)
    replication = _of_conntrackd(*conntrackd) if (conntrackd := changed.get(paths.conntrackd_config)) else ()
    by_hand = next((one.text for one in kept if one.path == paths.conntrackd_config), None)
    links = (*_of_links(changed, pair, paths), *_of_tunnels(changes, by_hand))
    return Hazards(vrrp, replication, going, links)


def _of_keepalived(old: str, new: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        # what a file of ours no longer has, the pair file no longer wants
        going = () if is_made_by_hafw(old.encode()) else what_would_go(old, new)
        return wire_differences("keepalived.conf", old, new), going
    except NotUnderstoodError as error:
        unknown = (f"the existing file cannot be parsed: {error}",)
        return unknown, unknown


def _of_conntrackd(old: str, new: str) -> tuple[str, ...]:
    try:
        return wire_differences("conntrackd.conf", old, new)
    except NotUnderstoodError as error:
        return (f"the existing file cannot be parsed: {error}",)


def _of_links(changed: Mapping[Path, tuple[str, str]], pair: Pair, paths: Paths) -> Iterator[str]:
    for name in pair.sync_links:
        if files := changed.get(paths.network_dir / file_name(name, "network")):
            yield from address_losses(name, *files)


def _of_tunnels(changes: Iterable[FileChange], by_hand: str | None) -> Iterator[str]:
    """`by_hand`: a conntrackd.conf that stays. Of one that changes with the tunnels its own differences tell
    where they come and go."""
    for change in changes:
        name = tunnel_of(change.path)
        if name is None:
            continue
        if change.old and change.new:
            yield from tunnel_differences(
                name, change.old.decode(errors="replace"), change.new.decode(errors="replace")
            )
        elif by_hand is not None and (over := _replicated_over(by_hand)):
            if change.new and name not in over:
                yield f"tunnel {name} is new, and the rules let nothing past it; conntrackd.conf has {over}"
            elif change.old and name in over:
                yield f"tunnel {name} goes, and conntrackd.conf has {over}"


def _replicated_over(conntrackd: str) -> str | None:
    try:
        return replicates_over(conntrackd)
    except NotUnderstoodError as error:
        return f"what cannot be parsed: {error}"


def refuse_hazards(hazards: Hazards, *, both_together: bool, drop_others: bool, restart: bool) -> None:
    """Raises HafwError for what was not agreed to by its own option."""
    if hazards.speech and restart:
        raise HafwError(
            "the two nodes have to be changed together, and --restart is for one alone:"
            f" {'; '.join(hazards.speech)}",
            "nothing was written; leave out --restart",
        )
    if hazards.vrrp and not both_together:
        raise HafwError(
            "a node with the new keepalived.conf and one with the old would both be primary:"
            f" {'; '.join(hazards.vrrp)}",
            f"nothing was written; the two have to be changed together, with an outage: with {BOTH_TOGETHER}"
            " the files are written, and the way to do it is printed",
        )
    if hazards.speech and not both_together:
        what = "conntrackd.conf" if hazards.replication else "sync links"
        raise HafwError(
            f"no state goes between a node with the new {what} and one with the old:"
            f" {'; '.join(hazards.speech)}",
            f"nothing was written; with {BOTH_TOGETHER} the files are written, and the way to change the two"
            " together is printed",
        )
    if hazards.going and not drop_others:
        raise HafwError(
            f"these would go with the old keepalived.conf: {'; '.join(hazards.going)}",
            f"nothing was written; {DROP_OTHERS} lets them go",
        )


def advice_for_both(hazards: Hazards, commands: Iterable[tuple[str, ...]]) -> str:
    """How the two nodes are changed together; none of the commands may be run on one node alone."""
    lines = "".join(f"    {' '.join(argv)}\n" for argv in commands)
    if not hazards.vrrp:
        return (
            "\nRun `hafw setup` on the other node as well. Then these, as root, on both, one right after\n"
            f"the other:\n\n{lines}\n"
            "In between no state goes over, and a failover loses every connection.\n"
        )
    return (
        "\nDo not restart keepalived on one node alone: both would be primary. Run `hafw setup` on the\n"
        "other node as well. Then, as root, stop it on both; from here on nothing is forwarded:\n"
        "\n    systemctl stop keepalived.service\n"
        f"\nOnly when it is stopped on both, on both of them:\n\n{lines}\n"
        "Connections that were open do not all survive this.\n"
    )


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
