"""What the lab says to people: its commands can be pasted, and a terminal obeys nothing of what a node or a
device has said.
"""

import os
import sys

from hafw_lab import hints
from hafw_lab.terminal import clean_lines


def program() -> str:
    """This one, as it was called."""
    return os.environ.get(hints.CALLED) or hints.PROGRAM


def adapted(text: str, lab: str | None = None) -> str:
    """As this user has to type it; `lab` is the one that is meant."""
    return hints.adapt(text, program(), None if lab == hints.DEFAULT_LAB else lab)


def adapted_columns(text: str) -> str:
    """Examples, as this user has to type them."""
    return hints.adapt_columns(text, program())


def for_people(text: str, lab: str | None = None) -> str:
    return clean_lines(adapted(text, lab))


def show(text: str, lab: str | None = None) -> None:
    """What was asked for."""
    print(for_people(text, lab), flush=True)


def say(text: str, lab: str | None = None) -> None:
    """How it goes, and what went wrong."""
    print(for_people(text, lab), file=sys.stderr, flush=True)
