# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of renderers: what each prints, and which files of a node it makes. Pure.

CONTRIBUTING.md lists what goes with a new one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from agent.model.pair import Pair
from agent.paths import Paths
from agent.render import conntrackd, keepalived, modules, networkd, nftables_unit, sysctl
from agent.render.kinds import Rendered

_Files = tuple[tuple[Path, str], ...]


class Renderer(NamedTuple):
    """Both are given the pair, the name of the node, and where things are on it."""

    render: Callable[[Pair, str, Paths], str]
    """What `hafw render` prints."""
    files: Callable[[Pair, str, Paths], _Files]
    """What `hafw setup` writes."""


def _one_file(render: Callable[[Pair, str, Paths], str], place: Callable[[Paths], Path]) -> Renderer:
    return Renderer(render, lambda pair, node, paths: ((place(paths), render(pair, node, paths)),))


def _network_files(pair: Pair, node: str, paths: Paths) -> _Files:
    return tuple((paths.network_dir / name, text) for name, text in networkd.files(pair, node))


RENDERERS: Mapping[Rendered, Renderer] = {
    Rendered.MODULES: _one_file(modules.render, lambda paths: paths.modules_file),
    Rendered.SYSCTL: _one_file(sysctl.render, lambda paths: paths.sysctl_file),
    Rendered.NETWORKD: Renderer(networkd.render, _network_files),
    Rendered.NFTABLES: _one_file(nftables_unit.render, lambda paths: paths.nftables_drop_in),
    Rendered.CONNTRACKD: _one_file(conntrackd.render, lambda paths: paths.conntrackd_config),
    Rendered.KEEPALIVED: _one_file(keepalived.render, lambda paths: paths.keepalived_config),
}
"""In the order in which the files are to be written."""
