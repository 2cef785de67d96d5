# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair file A and its successor B, and which of them is in force on a machine."""

from agent.config import loader
from tests.checkout import ROOT
from tests.netns.machine import Machine
from tests.netns.pair_checks import rules_digest

PAIR_FILE = "/etc/hafw/hafw.yaml"
A = (ROOT / "examples" / "pair.yaml").read_text()
B = A.replace("allow: [", "allow: [smtp, ")


def is_pending(machine: Machine) -> bool:
    return (machine.root / "var/lib/hafw/pending").exists()


def assert_in_force(machine: Machine, text: str) -> None:
    assert machine.read(PAIR_FILE) == text
    assert machine.digest() == rules_digest(loader.parse(text))
