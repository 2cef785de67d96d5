# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw setup` wants to be on a node: every file that the pair file decides on. Pure."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agent.model.pair import Pair
from agent.paths import Paths
from agent.render.renderers import RENDERERS

MADE_BY_HAFW = "# hafw render "
"""How the first line of every rendered file begins."""


class PlannedFile(NamedTuple):
    """A file as it should be. `mode` is for a new one; a file that is there keeps its own."""

    path: Path
    text: str
    mode: int


def plan_setup(
    pair: Pair, node: str, paths: Paths, pair_files: Iterable[tuple[str, str]] = ()
) -> tuple[PlannedFile, ...]:
    """Everything that `node` needs, in the order in which it is to be written.

    `pair_files` is what loader.load_with_files() gave: the pair file and those that it names. They come
    first, so that a setup that was cut short is completed by another one without arguments.
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
    return tuple(PlannedFile(*file) for file in (*own, *rendered))
