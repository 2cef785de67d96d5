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
_DEBIAN = "/usr"
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
    hint = _find_other_python()
    text = f"{program}: Python cannot import {library}; install from Debian: {packages}"
    sys.stderr.write(f"{text}, and {hint}\n" if hint else f"{text}\n")
    return 1


def _find_other_python() -> str | None:
    """What to do where this Python does not see Debian's packages."""
    if sys.prefix == sys.base_prefix:
        return None if sys.base_prefix == _DEBIAN else f"run it with {_DEBIAN}/bin/python3"
    if sys.base_prefix == _DEBIAN and _sees_system(Path(sys.prefix)):
        return None
    return f"make the virtual environment with {_DEBIAN}/bin/python3 -m venv --system-site-packages"


def _sees_system(environment: Path) -> bool:
    try:
        lines = (environment / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.replace(" ", "").lower() == "include-system-site-packages=true" for line in lines)


def _is_missing(library: str) -> bool:
    return find_spec(library) is None and not any(
        find_spec(other) for other, same in _SAME.items() if same == library
    )
