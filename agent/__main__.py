"""`python3 -m agent` is the command `hafw`."""

import sys

from agent.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
