"""What pip finds as the way to build hafw: it says that there is none."""

import sys

MESSAGE = (
    "hafw is no Python package to be installed with pip: its agent needs systemd units, a hook of"
    " keepalived's and Debian's own libraries. Build its Debian packages with `./run deb`, or use it from"
    " the checkout with `./run hafw` and `./run lab`."
)


def __getattr__(name: str) -> object:
    """Whatever pip asks for first (PEP 517's hooks)."""
    if name.startswith("__"):
        raise AttributeError(name)
    sys.exit(MESSAGE)
