# SPDX-License-Identifier: GPL-2.0-or-later
"""The note on the disk that this node is in maintenance: it outlives a reboot and an upgrade."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from agent.adapters import atomic_file
from agent.core.maintenance import Maintenance, is_reason
from agent.errors import HafwError
from agent.file_cures import cure_of
from agent.regular_file import read_regular

MAX_BYTES = 4096
_MAX_SINCE = 40


def read_maintenance(place: Path) -> Maintenance | None:
    """None when there is none. Raises HafwError when there is one that cannot be read."""
    if not os.path.lexists(place):
        return None
    try:
        found = json.loads(read_regular(place, MAX_BYTES))
        since, reason, never = (found[name] for name in ("since", "reason", "never"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HafwError(f"{place} is invalid", "say again: hafw maintenance on, or off") from error
    fits = isinstance(since, str) and isinstance(reason, str) and isinstance(never, bool)
    if not (fits and is_reason(reason) and since.isprintable() and len(since) <= _MAX_SINCE):
        raise HafwError(f"{place} is invalid", "say again: hafw maintenance on, or off")
    return Maintenance(since, reason, never)


def write_maintenance(place: Path, wanted: Maintenance | None) -> None:
    """On the disk when this returns. Raises HafwError."""
    try:
        if wanted is None:
            atomic_file.remove(place)
        else:
            atomic_file.make_directory(place.parent)
            atomic_file.write(place, json.dumps(asdict(wanted)), durable=True)
    except OSError as error:
        raise HafwError(f"cannot use {place}: {error.strerror}", cure_of(error)) from error
