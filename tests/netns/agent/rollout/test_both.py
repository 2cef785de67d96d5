# SPDX-License-Identifier: GPL-2.0-or-later
"""One change of the rules for both nodes of a pair, with real agents and the channel between them."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from tests.netns.pair_checks import repair, until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

PAIR_FILE = str(Paths().pair_file)
NEW = "/run/new.yaml"
LATE_S = 30


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with Lab.start(LabOptions(), name="both") as lab:
        yield lab


@pytest.fixture
def lab(started: Lab) -> Lab:
    """The same one for every test, with the policy from the beginning on both nodes."""
    repair(started)
    for name in started.firewalls:
        started.node(name).signal_service("channel", signal.SIGCONT)
    nodes = [started.node(name) for name in started.firewalls]
    until(lambda: all(hears(node) for node in nodes), LATE_S, "the agents do not hear each other")
    for node in nodes:
        if waits(node):
            hafw(node, "rollback", "--this-node")
    nodes[0].write_text("/run/first.yaml", first(started))
    hafw(nodes[0], "apply", "/run/first.yaml")
    return started


def first(lab: Lab) -> str:
    """What the lab was started with."""
    node = lab.node(lab.firewalls[0])
    return hafw(node, "generations", "1") if 1 in known(node) else node.read_text("/run/first.yaml")


def known(node: Node) -> list[int]:
    return [one["number"] for one in json.loads(hafw(node, "generations", "--json"))]


def changed(lab: Lab) -> str:
    return first(lab) + "zones: {client: {log: true}}\n"


def run(node: Node, *arguments: str) -> "Any":
    return node.run(["/usr/sbin/hafw", "rules", *arguments], timeout_s=60, check=False)


def hafw(node: Node, *arguments: str) -> str:
    done = run(node, *arguments)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return str(done.stdout)


def refused(node: Node, *arguments: str) -> str:
    done = run(node, *arguments)
    assert done.returncode == 1, f"{arguments}: {done.stdout}{done.stderr}"
    return str(done.stderr)


def hears(node: Node) -> bool:
    found = json.loads(node.run(["/usr/sbin/hafw", "status", "--json"], check=False).stdout)
    return not {"peer", "peer-key", "peer-path"} & set(found.get("problems", {"peer": ""}))


def in_force(node: Node) -> dict[str, Any]:
    known = json.loads(hafw(node, "generations", "--json"))
    found: list[dict[str, Any]] = [one for one in known if one["mark"] is not None]
    return found[-1]


def waits(node: Node) -> bool:
    return str(in_force(node)["mark"]).startswith("waits")


def digests(lab: Lab) -> set[str]:
    return {str(in_force(lab.node(name))["rules"]) for name in lab.firewalls}


def numbers(lab: Lab) -> set[int]:
    return {int(in_force(lab.node(name))["number"]) for name in lab.firewalls}


@pytest.mark.parametrize("place", [0, 1])
def test_an_apply_and_a_rollback_are_for_both(lab: Lab, place: int) -> None:
    """Typed on either node; the generations have the same number."""
    node, peer = lab.node(lab.firewalls[place]), lab.node(lab.firewalls[1 - place])
    (before,) = digests(lab)
    node.write_text(NEW, changed(lab))
    assert f"here and on {peer.name}" in hafw(node, "apply", NEW)
    (after,) = digests(lab)
    assert after != before
    assert len(numbers(lab)) == 1
    assert "on " + node.name in in_force(peer)["who"]
    assert peer.read_text(PAIR_FILE) == changed(lab)
    hafw(node, "rollback")
    assert digests(lab) == {before}
    assert len(numbers(lab)) == 1


@contextlib.contextmanager
def no_place_for_generations(node: Node) -> Iterator[None]:
    """A file where their directory should be: everything is checked, and nothing can be kept."""
    place = "/var/lib/hafw/generations"
    node.run(["sh", "-c", f"mv {place} {place}.away && touch {place}"])
    try:
        yield
    finally:
        node.run(["sh", "-c", f"rm {place} && mv {place}.away {place}"])


def test_what_the_peer_cannot_load_this_node_does_not(lab: Lab) -> None:
    node, peer = (lab.node(name) for name in lab.firewalls)
    (before,) = digests(lab)
    node.write_text(NEW, changed(lab))
    with no_place_for_generations(peer):
        assert f"hafw: {peer.name}: " in refused(node, "apply", NEW)
    assert digests(lab) == {before}
    assert not waits(node)


def test_what_this_node_cannot_load_the_peer_takes_back(lab: Lab) -> None:
    node, peer = (lab.node(name) for name in lab.firewalls)
    (before,) = digests(lab)
    node.write_text(NEW, changed(lab))
    with no_place_for_generations(node):
        assert f"it was taken back on {peer.name}" in refused(node, "apply", NEW)
    assert digests(lab) == {before}
    assert not waits(peer)
    assert peer.read_text(PAIR_FILE) == first(lab)


def test_a_bad_file_and_other_wires_are_refused_before_anything(lab: Lab) -> None:
    node = lab.node(lab.firewalls[0])
    numbers_before = numbers(lab)
    node.write_text(NEW, first(lab).replace("interfaces:", "interfacez:"))
    assert run(node, "apply", NEW).returncode == 2
    node.write_text(NEW, first(lab).replace("eth2", "eth3"))
    assert run(node, "apply", NEW).returncode != 0
    assert numbers(lab) == numbers_before


def test_what_nobody_confirms_is_rolled_back_on_both_whatever_dies(lab: Lab) -> None:
    """The channel of both nodes, and the agent of one."""
    node, peer = (lab.node(name) for name in lab.firewalls)
    (before,) = digests(lab)
    node.write_text(NEW, changed(lab))
    hafw(node, "apply", NEW, "--confirm", "10")
    assert waits(node)
    assert waits(peer)
    try:
        for one in (node, peer):
            one.signal_service("channel", signal.SIGSTOP)
        peer.stop_service("agent", signal.SIGKILL)
        until(lambda: not waits(node) and not waits(peer), LATE_S, "nothing goes back")
        assert digests(lab) == {before}
    finally:
        peer.start_service("agent")
        for one in (node, peer):
            one.signal_service("channel", signal.SIGCONT)


def test_a_confirmation_is_for_both_or_for_neither(lab: Lab) -> None:
    node, peer = (lab.node(name) for name in lab.firewalls)
    (before,) = digests(lab)
    node.write_text(NEW, changed(lab))
    hafw(node, "apply", NEW, "--confirm", "600")
    peer.signal_service("channel", signal.SIGSTOP)
    until(lambda: not hears(node), LATE_S, "a hung channel is still heard")
    assert "--this-node" in refused(node, "confirm")
    assert waits(node)
    peer.signal_service("channel", signal.SIGCONT)
    until(lambda: hears(node) and hears(peer), LATE_S, "the channel does not come back")
    assert f"here and on {node.name}" in hafw(peer, "confirm")
    assert not waits(node)
    assert not waits(peer)
    (after,) = digests(lab)
    assert after != before


def test_elements_of_a_dynamic_set_are_on_both(lab: Lab) -> None:
    node, peer = (lab.node(name) for name in lab.firewalls)
    node.write_text(
        NEW, changed(lab) + "sets: {blocked: {dynamic: true, timeout: 600s}, lasting: {dynamic: true}}\n"
    )
    hafw(node, "apply", NEW)
    both = ["192.0.2.1", "2001:db8::1"]
    assert f"here and on {peer.name}" in change(node, "add", "blocked", *both).stdout
    assert (elements(node, "blocked"), elements(peer, "blocked")) == (both, both)
    change(peer, "add", "blocked", "192.0.2.1", "192.0.2.2")  # one of them is there already
    change(peer, "del", "blocked", "2001:db8::1")
    assert elements(node, "blocked") == elements(peer, "blocked") == ["192.0.2.1", "192.0.2.2"]
    assert elements(node, "lasting") == []
    for wrong in (("del", "blocked", "192.0.2.9"), ("add", "blokced", "192.0.2.9")):
        done = change(node, *wrong)
        assert done.returncode == 1
        assert "hafw: " in done.stderr
    assert change(node, "add", "blocked", "192.0.2.0/24").returncode == 2
    assert elements(node, "blocked") == elements(peer, "blocked") == ["192.0.2.1", "192.0.2.2"]


def change(node: Node, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return node.run(["/usr/sbin/hafw", "set", *arguments], timeout_s=60, check=False)


def elements(node: Node, name: str) -> list[str]:
    found = json.loads(change(node, "list", name, "--json").stdout)["sets"][name]
    assert all(one["expires_s"] is None or 0 < one["expires_s"] <= 600 for one in found)
    return sorted(one["element"] for one in found)


def test_a_peer_that_is_not_heard_is_left_as_it_is_only_by_wish(lab: Lab) -> None:
    """And what it has missed it gets by the next apply."""
    node, peer = (lab.node(name) for name in lab.firewalls)
    (before,) = digests(lab)
    node.write_text(NEW, changed(lab))
    peer.signal_service("channel", signal.SIGSTOP)
    try:
        until(lambda: not hears(node), LATE_S, "a hung channel is still heard")
        assert "--this-node" in refused(node, "apply", NEW)
        assert digests(lab) == {before}
        assert "the other node was left as it is" in hafw(node, "apply", "--this-node", NEW)
        assert len(digests(lab)) == 2
    finally:
        peer.signal_service("channel", signal.SIGCONT)
    until(lambda: hears(node) and hears(peer), LATE_S, "the channel does not come back")
    hafw(node, "apply")
    (after,) = digests(lab)
    assert after != before
    assert len(numbers(lab)) == 1
