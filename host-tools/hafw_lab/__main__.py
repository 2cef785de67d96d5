# SPDX-License-Identifier: GPL-2.0-or-later
"""`python3 -m hafw_lab` is the command `hafw-lab`."""

import sys
from collections.abc import Sequence

from agent.installation import say_missing


def main(argv: Sequence[str] | None = None) -> int:
    try:
        from hafw_lab.verbs.main import main as run

        return run(sys.argv[1:] if argv is None else argv)
    except ModuleNotFoundError as error:
        return say_missing("hafw-lab", error)


if __name__ == "__main__":
    sys.exit(main())
