# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m hafw_lab` is the command `hafw-lab`."""

import sys
from collections.abc import Sequence

from agent import __version__, entry


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    return entry.run("hafw-lab", _load_version if given[:1] == ["--version"] else _load, given)


def _load() -> entry.Main:
    from hafw_lab.verbs.main import main as run

    return run


def _load_version() -> entry.Main:
    """Without any library, as one that is missing may be why it is asked for."""
    from hafw_lab.spoken import show

    def run(_: Sequence[str]) -> int:
        show(f"hafw-lab {__version__}")
        return 0

    return run


if __name__ == "__main__":
    sys.exit(main())
