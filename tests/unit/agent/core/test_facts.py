# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw check --pair` finds between two nodes, and what it tells to type, and where."""

from dataclasses import replace

import pytest

from agent.core.facts import Misfit, NodeFacts, PairFinding, compare_facts

NAMES = ("fw-1", "fw-2")
MAX = "net/netfilter/nf_conntrack_max"
EQUAL = {
    "pair file": "a",
    "rules": "b",
    "hafw": "1.2",
    "kernel": "6.1.0-9-amd64",
    "keepalived": "2.2.7",
    MAX: "262144",
    "HashSize of conntrackd.conf": "65536",
}
OWN = NodeFacts(EQUAL)


def between(**changed: str) -> tuple[PairFinding, ...]:
    named = {name.replace("_", " "): value for name, value in changed.items()}
    return compare_facts(OWN, NodeFacts({**EQUAL, **named}), NAMES)


def test_two_nodes_that_agree() -> None:
    assert compare_facts(OWN, OWN, NAMES) == ()


@pytest.mark.parametrize(
    ("what", "theirs", "node", "command"),
    [
        (MAX, "1048576", "fw-1", f"sysctl -w {MAX}=1048576"),
        (MAX, "9999", "fw-2", f"sysctl -w {MAX}=262144"),
        ("HashSize of conntrackd.conf", "8192", "fw-2", "hafw setup --replace conntrackd.conf"),
        ("hafw", "1.10", "fw-1", "apt-get install hafw-agent"),
        ("keepalived", "2.2.6", "fw-2", "apt-get install keepalived"),
        ("kernel", "6.1.0-10-amd64", "fw-1", "apt-get full-upgrade && reboot"),
        ("rules", "c", "fw-1", "hafw rules apply"),
    ],
)
def test_a_difference_names_both_and_the_command_that_repairs_it(
    what: str, theirs: str, node: str, command: str
) -> None:
    (found,) = compare_facts(OWN, NodeFacts({**EQUAL, what: theirs}), NAMES)
    assert (found.node, found.what, found.command) == (node, what, command)
    assert found.text == f"the nodes differ in {what}: fw-1 has {EQUAL[what]}, fw-2 has {theirs}"
    (seen,) = compare_facts(NodeFacts({**EQUAL, what: theirs}), OWN, ("fw-2", "fw-1"))
    if what != "rules":
        assert (seen.node, seen.command) == (node, command), "both nodes give the same advice"


def test_a_pair_file_is_applied_on_both() -> None:
    (found,) = between(pair_file="c")
    assert found.command == "hafw rules apply"


@pytest.mark.parametrize("theirs", [{}, {**EQUAL, "rules": ""}, {"song": "new"}])
def test_what_one_of_them_does_not_say_is_not_compared(theirs: dict[str, str]) -> None:
    assert compare_facts(OWN, NodeFacts(theirs), NAMES) == ()


@pytest.mark.parametrize("theirs", ["many", "-1", "9" * 30, "1e9"])
def test_what_is_no_number_only_differs(theirs: str) -> None:
    (found,) = compare_facts(OWN, NodeFacts({**EQUAL, MAX: theirs}), NAMES)
    assert found.what == MAX


WRONG = Misfit("net/ipv4/ip_forward", "it is 0", "sysctl -w net/ipv4/ip_forward=1")


def test_each_node_has_findings_of_its_own() -> None:
    own, other = replace(OWN, misfits=(WRONG,)), replace(OWN, misfits=(WRONG, WRONG), more=3)
    found = compare_facts(own, other, NAMES)
    assert [one.node for one in found] == ["fw-1", "fw-2", "fw-2", "fw-2"]
    assert found[-1].text.startswith("3 more")
    assert compare_facts(own, None, NAMES) == found[:1], "the other one is not heard"
