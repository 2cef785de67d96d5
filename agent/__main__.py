# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m agent` is the command `hafw`."""

import sys
from collections.abc import Sequence

from agent.installation import say_missing


def main(argv: Sequence[str] | None = None) -> int:
    try:
        from agent.cli.main import main as run

        return run(argv)
    except ModuleNotFoundError as error:
        return say_missing("hafw", error)


if __name__ == "__main__":
    sys.exit(main())
