# SPDX-License-Identifier: GPL-2.0-or-later
"""How this copy of hafw was installed, and which of Debian's packages it lacks."""

import sys
from importlib.util import find_spec
from pathlib import Path

_BY_PIP = Path(__file__).parent / "INSTALLED_BY_PIP"
"""packaging/pip_build.py writes it."""
_PACKAGES = {
    "dbus_next": "python3-dbus-next",
    "nftables": "python3-nftables",
    "pyroute2": "python3-pyroute2",
    "structlog": "python3-structlog",
    "systemd": "python3-systemd",
    "yaml": "python3-yaml",
}
_SAME = {"dbus_fast": "dbus_next"}
"""Asked for when the other is not there."""


def is_by_pip() -> bool:
    """Then there are no systemd units, no hook of keepalived's and no man pages."""
    return _BY_PIP.exists()


def say_missing(program: str, error: ModuleNotFoundError) -> int:
    """One sentence and the exit status where a library of Debian's is missing; anything else is a bug."""
    library = (error.name or "").partition(".")[0]
    needed = _SAME.get(library, library)
    if needed not in _PACKAGES:
        raise error
    packages = " ".join(
        package for name, package in _PACKAGES.items() if name == needed or _is_missing(name)
    )
    inside = sys.prefix != sys.base_prefix
    hint = ", and make the virtual environment with --system-site-packages" if inside else ""
    sys.stderr.write(f"{program}: Python cannot import {library}; install from Debian: {packages}{hint}\n")
    return 1


def _is_missing(library: str) -> bool:
    return find_spec(library) is None and not any(
        find_spec(other) for other, same in _SAME.items() if same == library
    )
