# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw setup` wants to be on a node: every file that the pair file decides on. Pure."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.model.pair import Pair
from agent.paths import Paths
from agent.render.networkd import tunnel_files, tunnel_key_file
from agent.render.renderers import RENDERERS
from agent.setup.key_rights import KEY_MODE
from agent.setup.tunnel_keys import TunnelKeys

MADE_BY_HAFW = "# hafw render "
"""How the first line of every rendered file begins."""


class PlannedFile(NamedTuple):
    """A file as it should be. `mode` is for a new one; a file that is there keeps its own."""

    path: Path
    text: str
    mode: int
    secret: bool = False
    """For systemd-networkd alone; its content is never shown, and of the one before nothing is kept."""


def plan_setup(
    pair: Pair,
    node: str,
    paths: Paths,
    pair_files: Iterable[tuple[str, str]] = (),
    pair_key: str | None = None,
) -> tuple[PlannedFile, ...]:
    """Everything that `node` needs, in the order in which it is to be written.

    `pair_files` is what loader.load_with_files() gave: the pair file and those that it names. They come
    first, so that a setup that was cut short is completed by another one without arguments. Without
    `pair_key`, the text of pair.pem, there is nothing that makes the tunnels. Raises HafwError when that is
    no key.
    """
    own = tuple(
        (paths.pair_file.parent / name if index else paths.pair_file, text, 0o640)
        for index, (name, text) in enumerate(pair_files)
    )
    rendered = (
        (path, text, 0o644)
        for renderer in RENDERERS.values()
        for path, text in renderer.files(pair, node, paths)
    )
    tunnels = _plan_tunnels(pair, node, paths, pair_key) if pair_key is not None and pair.tunnels else ()
    return (*(PlannedFile(*file) for file in own), *tunnels, *(PlannedFile(*file) for file in rendered))


def _plan_tunnels(pair: Pair, node: str, paths: Paths, pair_key: str) -> Iterator[PlannedFile]:
    keys = TunnelKeys(pair, pair_key)
    peer = pair.peer_of(node).name
    names = [one.inside.name for one in pair.tunnels]
    for name in names:
        yield PlannedFile(
            tunnel_key_file(paths, name), keys.private(node, name) + "\n", KEY_MODE, secret=True
        )
    peer_keys = {name: keys.public(peer, name) for name in names}
    for name, text in tunnel_files(pair, node, paths, peer_keys):
        yield PlannedFile(paths.network_dir / name, text, 0o644)
