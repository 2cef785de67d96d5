# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair file and what it includes, in a directory of root's for a moment: they are read there as the files
of an administrator are."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agent.adapters.lock import make_run_dir
from agent.config.files import Files
from agent.errors import HafwError
from agent.file_cures import cure_of
from agent.paths import Paths

LEFT_AFTER_S = 3600.0
"""No change of the rules takes so long."""


@contextlib.contextmanager
def staged(paths: Paths, files: Files) -> Iterator[Path]:
    """Where the pair file is, as long as it lasts. Raises HafwError when they cannot be written."""
    make_run_dir(paths)
    _sweep(paths)
    with contextlib.ExitStack() as kept:
        try:
            directory = kept.enter_context(tempfile.TemporaryDirectory(prefix="pair.", dir=paths.run_dir))
            main = Path(directory) / paths.pair_file.name
            for name, text in ((main.name, files[0][1]), *files[1:]):
                place = main.parent / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            raise HafwError(
                f"cannot write a pair file down in {paths.run_dir}: {error.strerror}", cure_of(error)
            ) from error
        yield main


def _sweep(paths: Paths) -> None:
    """What a process that was killed has left."""
    with contextlib.suppress(OSError):
        for one in paths.run_dir.glob("pair.*"):
            if one.is_dir() and time.time() - one.stat().st_mtime > LEFT_AFTER_S:
                shutil.rmtree(one, ignore_errors=True)
