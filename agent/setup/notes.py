# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw setup` says beside its diff: who else configures the same, and what makes a change live."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from agent.model.pair import Pair
from agent.paths import Paths
from agent.render.conntrackd import hook_in as conntrackd_hook_in
from agent.render.keepalived import hook_in as keepalived_hook_in
from agent.render.networkd import tunnel_of
from agent.setup.blocks import NotUnderstoodError
from agent.setup.changes import FileChange, Kept
from agent.setup.foreign import unfit_for_agent
from agent.setup.routes import interfaces_files, matches_name, network_files, read_hint

Argv = tuple[str, ...]

_FIRST_OF_OURS = "60-hafw-"
_IFACE = re.compile(r"^\s*iface\s+([^\s:]+)", re.MULTILINE)


def live_commands(changes: Collection[FileChange], paths: Paths) -> tuple[Argv, ...]:
    """What makes the changed files live on this node, in an order in which nothing is asked of a daemon that
    still has its old file."""
    if not changes:
        return ()
    changed = {change.path for change in changes}
    network = any(change.path.parent == paths.network_dir or change.secret for change in changes)
    units = (
        (paths.modules_file in changed, "systemd-modules-load"),
        (bool(changed & {paths.modules_file, paths.sysctl_file}), "systemd-sysctl"),
        (network, "systemd-networkd"),
        (paths.conntrackd_config in changed, "conntrackd"),
        (True, "hafw-agent"),
        (paths.keepalived_config in changed, "keepalived"),
    )
    wanted = tuple(f"{unit}.service" for is_wanted, unit in units if is_wanted)
    at_boot = [unit for unit in wanted if not unit.startswith(("systemd-modules", "systemd-sysctl"))]
    gone = tuple(
        ("ip", "link", "delete", "dev", name)
        for change in changes
        if change.new is None and (name := tunnel_of(change.path))
    )
    reload = (("systemctl", "daemon-reload"),) if paths.nftables_drop_in in changed else ()
    restarts = (("systemctl", "restart", unit) for unit in wanted)
    # networkd removes no tunnel that it has made
    return (*reload, ("systemctl", "enable", *at_boot), *gone, *restarts)


def kept_notes(kept: Collection[Kept], pair: Pair, node: str, paths: Paths) -> Iterator[str]:
    """What a file that was made by hand needs in it."""
    for file in kept:
        what, lines = (
            ("keepalived", keepalived_hook_in(pair, paths))
            if file.path == paths.keepalived_config
            else ("conntrackd", conntrackd_hook_in(pair, node, paths))
        )
        indented = "\n".join(f"    {line}" if line else "" for line in lines.splitlines())
        yield (
            f"{file.path} was made by hand and stays as it is. Give it these lines:\n\n{indented}\n\n"
            f"{_unfit(file, paths)}`hafw render {what}` prints a whole file;"
            f" --replace {file.path.name} puts that in its place."
        )


def _unfit(file: Kept, paths: Paths) -> str:
    try:
        found = unfit_for_agent(file.path.name, file.text, file.rendered, str(paths.hook))
    except NotUnderstoodError as error:
        return (
            f"The rest of it cannot be parsed: {error}. Nothing else in it may act at a failover,"
            f" and it must have what `hafw render` prints.\n\n"
        )
    if not found:
        return ""
    listed = "\n".join(f"    {line}" for line in found)
    return f"And its content is not suitable for a pair with the agent:\n\n{listed}\n\n"


def rival_notes(pair: Pair, root: Path) -> Iterator[str]:
    """Other files that configure an interface of the pair."""
    for interface in pair.every_interface:
        for file in _rival_networks(interface.name, root):
            yield (
                f"{file} matches {interface.name} and comes before ours, so ours is not read;"
                f" remove {interface.name} from it"
            )
    known = {interface.name for interface in pair.interfaces}
    for path, text in interfaces_files(root):
        for name in sorted(known & set(_IFACE.findall(text))):
            yield f"{path} configures {name} too; remove {name} there, systemd-networkd configures it now"


def _rival_networks(name: str, root: Path) -> Iterator[Path]:
    for path in network_files(root):
        if path.name < _FIRST_OF_OURS and matches_name(read_hint(path), name):
            yield Path("/") / path.relative_to(root)
