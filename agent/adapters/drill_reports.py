# SPDX-License-Identifier: GPL-2.0-or-later
"""The reports of drills on the disk: a JSON object in each file, the newest of them."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from agent.adapters import atomic_file
from agent.errors import HafwError
from agent.file_cures import cure_of

KEPT = 20
_MODE = 0o640


def write_report(place: Path, values: Mapping[str, object]) -> None:
    """On the disk when this returns. Raises HafwError."""
    try:
        atomic_file.make_directory(place.parent, 0o750)
        atomic_file.write(place, json.dumps(values, indent=1) + "\n", _MODE, durable=True)
    except OSError as error:
        raise HafwError(f"cannot write the report {place}: {error.strerror}", cure_of(error)) from error
    with contextlib.suppress(OSError):  # one too many harms nothing
        for old in sorted(place.parent.glob("*.json"))[:-KEPT]:
            old.unlink()
