# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m agent` is the command `hafw`."""

import sys
from collections.abc import Sequence

from agent import entry


def main(argv: Sequence[str] | None = None) -> int:
    return entry.run("hafw", _load, sys.argv[1:] if argv is None else argv)


def _load() -> entry.Main:
    from agent.cli.main import main as run

    return run


if __name__ == "__main__":
    sys.exit(main())
