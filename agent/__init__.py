# SPDX-License-Identifier: GPL-2.0-or-later
"""hafw, the agent."""

import os

_HERE = os.path.dirname(__file__)


def _find_version() -> str:
    """The changelog of the Debian packages has it, and nothing else; their build writes it beside this
    file."""
    above = os.path.dirname(_HERE)
    try:
        return _first_line(_HERE, "VERSION")
    except OSError:
        pass
    for place in ("packaging/debian/changelog", "debian/changelog"):
        try:
            return _first_line(above, place).partition("(")[2].partition(")")[0]
        except OSError:
            continue
    return "unknown"


def _first_line(*place: str) -> str:
    # not pathlib, which takes its time: until this is loaded nothing of ours handles an interrupt
    with open(os.path.join(*place), encoding="utf-8") as file:
        return file.readline().strip()


__version__ = _find_version()
