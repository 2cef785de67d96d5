# SPDX-License-Identifier: GPL-2.0-or-later
"""Dynamic sets of a node that was away, or whose table was made again, with real agents."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from agent.adapters.sets_work import MAX_ELEMENTS
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.planned import wait_calm
from hafw_lab.model.fault import POWER
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

SETS = "sets: {blocked: {dynamic: true, timeout: 600s}, lasting: {dynamic: true}}\n"
NEW = "/run/new.yaml"
LATE_S = 40
MANY_S = 180
"""Looks at very many elements are rare."""
TIMES_S = 60
"""So much may the times that elements have left differ, on a machine that has other work to do."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(), name="away") as started:
        wait_heard(started)
        node = started.node(started.firewalls[0])
        node.write_text(NEW, node.read_text("/etc/hafw/hafw.yaml") + SETS)
        hafw(node, "rules", "apply", NEW)
        yield started


def ends(lab: Lab) -> tuple[Node, Node]:
    """The primary, and its peer."""
    primary = lab.wait_primary(None, LATE_S)
    (peer,) = (name for name in lab.firewalls if name != primary)
    return lab.node(primary), lab.node(peer)


def run(node: Node, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return node.run(["/usr/sbin/hafw", *arguments], timeout_s=60, check=False)


def hafw(node: Node, *arguments: str) -> str:
    done = run(node, *arguments)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def problems(node: Node) -> Mapping[str, str]:
    found: Mapping[str, str] = json.loads(run(node, "status", "--json").stdout or "{}").get(
        "problems", {"peer": ""}
    )
    return found


def hears(node: Node) -> bool:
    return not {"peer", "peer-key", "peer-path"} & {*problems(node)}


def wait_heard(lab: Lab) -> None:
    nodes = [lab.node(name) for name in lab.firewalls]
    until(lambda: all(map(hears, nodes)), LATE_S, "the agents do not hear each other")


def elements(node: Node) -> dict[str, dict[str, int | None]]:
    """By set, each with the seconds that it has left; nothing without a table."""
    done = run(node, "set", "list", "--json")
    sets = json.loads(done.stdout)["sets"] if done.returncode == 0 else {}
    return {name: {one["element"]: one["expires_s"] for one in some} for name, some in sets.items()}


def names(node: Node) -> dict[str, set[str]]:
    return {name: {*some} for name, some in elements(node).items()}


def wait_for(nodes: tuple[Node, ...], wanted: Mapping[str, set[str]], timeout_s: float = LATE_S) -> None:
    for node in nodes:
        until(
            lambda node=node: names(node) == wanted,  # type: ignore[misc]  # mypy does not see into defaults of lambdas
            timeout_s,
            lambda node=node: f"{node.name} has {elements(node)}, not {wanted}; {problems(node)}",  # type: ignore[misc]
        )


def test_a_node_that_was_away_gets_what_it_missed(lab: Lab) -> None:
    node, peer = ends(lab)
    hafw(node, "set", "add", "blocked", "192.0.2.1", "192.0.2.2", "2001:db8::1")
    hafw(node, "set", "add", "lasting", "192.0.2.9")
    lab.fail(peer.name, POWER)
    until(lambda: not hears(node), LATE_S, "a node without power is heard")
    refused = run(node, "set", "add", "blocked", "192.0.2.3")
    assert refused.returncode == 1
    assert "--this-node" in refused.stderr
    hafw(node, "set", "add", "--this-node", "blocked", "192.0.2.3")
    hafw(node, "set", "del", "--this-node", "blocked", "192.0.2.1")
    lab.heal(peer.name)
    wait_heard(lab)
    hafw(node, "rules", "apply")  # here its disk is lost with its power
    wanted = {"blocked": {"192.0.2.2", "192.0.2.3", "2001:db8::1"}, "lasting": {"192.0.2.9"}}
    wait_for((peer, node), wanted)
    own, other = elements(node), elements(peer)
    assert other["lasting"] == own["lasting"] == {"192.0.2.9": None}
    assert all(
        abs((left_s or 0) - (own["blocked"][one] or 0)) < TIMES_S for one, left_s in other["blocked"].items()
    )
    assert "rules-differ" not in problems(node)


def test_they_stay_equal_when_the_roles_change(lab: Lab) -> None:
    wait_calm(lab, LATE_S)
    node, peer = ends(lab)
    before = names(node)
    assert any(before.values())
    hafw(node, "handover")
    assert ends(lab)[0].name == peer.name
    wait_for((node, peer), before)
    hafw(peer, "set", "del", "blocked", "192.0.2.2")
    wait_for((node, peer), {**before, "blocked": before["blocked"] - {"192.0.2.2"}})


@pytest.mark.parametrize("place", [0, 1], ids=["primary", "backup"])
def test_whose_table_was_flushed_gets_them_from_the_other_one(lab: Lab, place: int) -> None:
    both = ends(lab)
    before = names(both[0])
    assert any(before.values())
    wait_for(both, before)
    both[place].run(["nft", "flush", "ruleset"])
    wait_for(both, before)


def test_both_say_so_where_it_cannot_be_done(lab: Lab) -> None:
    """Here: because there are more than are ever sent. And it ends."""
    node, peer = ends(lab)
    before = names(node)
    many = ", ".join(f"10.{one >> 16}.{one >> 8 & 255}.{one & 255}" for one in range(MAX_ELEMENTS + 1))
    node.write_text("/run/many.nft", f"add element inet hafw lasting/4 {{ {many} }}\n")
    node.run(["nft", "-f", "/run/many.nft"])
    peer.run(["nft", "flush", "ruleset"])
    for one in (node, peer):
        until(
            lambda one=one: "may have other elements" in problems(one).get("rules-differ", ""),  # type: ignore[misc]
            MANY_S,
            f"{one.name} says nothing",
        )
    node.run(["nft", "flush set inet hafw lasting/4"])
    wait_for((node, peer), {**before, "lasting": set()}, MANY_S)
    for one in (node, peer):
        until(
            lambda one=one: "rules-differ" not in problems(one),  # type: ignore[misc]
            MANY_S,
            f"{one.name} still says it",
        )
