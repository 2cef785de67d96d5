# SPDX-License-Identifier: GPL-2.0-or-later
"""hafw, the agent."""

from pathlib import Path

_HERE = Path(__file__).parent


def _find_version() -> str:
    """The changelog of the Debian packages has it, and nothing else; their build writes it beside this
    file."""
    try:
        return (_HERE / "VERSION").read_text().strip()
    except OSError:
        pass
    for place in ("packaging/debian/changelog", "debian/changelog"):
        try:
            first = (_HERE.parent / place).read_text().partition("\n")[0]
        except OSError:
            continue
        return first.partition("(")[2].partition(")")[0]
    return "unknown"


__version__ = _find_version()
