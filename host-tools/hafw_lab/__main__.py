"""`python3 -m hafw_lab` is the command `hafw-lab`."""

import sys

from hafw_lab.verbs.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
