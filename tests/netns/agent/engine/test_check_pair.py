# SPDX-License-Identifier: GPL-2.0-or-later
"""`hafw check --pair` on a pair with the real daemons: what it finds on either node, and that what it tells
to type repairs it."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from agent.paths import Paths
from hafw_lab.client.lab import Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from tests.netns.pair_checks import until, wait_quiet

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into the nodes' processes, which root may"),
]

SOON_S = 60.0
CONNTRACKD_CONF, KEEPALIVED_CONF = str(Paths().conntrackd_config), str(Paths().keepalived_config)
UDP_TIMEOUT = "net/netfilter/nf_conntrack_udp_timeout"
FORWARD = "net/ipv4/ip_forward"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab.start(LabOptions(), name="check") as lab:
        wait_quiet(lab)
        yield lab


def check(node: Node) -> tuple[int, dict[str, Any]]:
    done = node.run(["hafw", "check", "--pair", "--json"], check=False)
    return done.returncode, json.loads(done.stdout)


def found(node: Node) -> set[tuple[str, str]]:
    """The node and the thing of each finding."""
    status, values = check(node)
    assert status == (1 if values["findings"] else 0)
    return {(one["node"], one["what"]) for one in values["findings"]}


def wait_found(node: Node, wanted: set[tuple[str, str]]) -> None:
    until(lambda: found(node) == wanted, SOON_S, lambda: f"{check(node)}, not {wanted}")


def repair(lab: Lab, name: str, what: str) -> None:
    """As it tells to."""
    commands = {one["command"] for one in check(lab.node(name))[1]["findings"] if one["what"] == what}
    for command in commands:
        lab.node(name).run(command.split())


def test_each_node_tells_all_of_itself(lab: Lab) -> None:
    def told() -> list[dict[str, Any]]:
        statuses = [lab.node(name).run(["hafw", "status", "--json"], check=False) for name in lab.firewalls]
        return [one for status in statuses for one in json.loads(status.stdout)["nodes"].values()]

    programs = {"hafw", "kernel", "keepalived", "conntrackd", "nft"}
    until(lambda: all(one and one["versions"].keys() == programs for one in told()), SOON_S, told)
    found = told()
    assert {one["generation"] for one in found} == {1}
    assert len({one["pair_file"] for one in found}) == len({one["rules"] for one in found}) == 1
    assert {one["role"] for one in found} == {"primary", "backup"}


def test_what_differs_is_found_from_either_node_and_repaired_as_told(lab: Lab) -> None:
    first, second = (lab.node(name) for name in lab.firewalls)
    for node in (first, second):
        wait_found(node, set())
    second.run(["sysctl", "-w", f"{FORWARD}=0"])
    first.run(["sysctl", "-w", f"{UDP_TIMEOUT}=77"])
    wanted = {(second.name, FORWARD), (second.name, UDP_TIMEOUT)}
    for node in (first, second):
        wait_found(node, wanted)
    text = first.run(["hafw", "check", "--pair"], check=False).stdout
    assert f"{FORWARD} is 0, and the pair file wants 1" in text
    assert f"the nodes differ in {UDP_TIMEOUT}: {first.name} has 77, {second.name} has 30" in text
    for what in (FORWARD, UDP_TIMEOUT):
        repair(lab, second.name, what)
    for node in (first, second):
        wait_found(node, set())


def test_files_of_the_daemons(lab: Lab) -> None:
    """Made by hand; the file of keepalived is the same as before, and was not read since."""
    backup = lab.node(other(lab, lab.wait_primary(None, 20)))
    peer = lab.node(other(lab, backup.name))
    ours = backup.read_text(CONNTRACKD_CONF)
    by_hand = ours.partition("\n")[2].replace("HashSize 65536", "HashSize 8192\n    PollSecs 5")
    backup.write_text(CONNTRACKD_CONF, by_hand)
    backup.write_text(KEEPALIVED_CONF, backup.read_text(KEEPALIVED_CONF))
    names = {"installed files", "conntrackd", "HashSize of conntrackd.conf"}
    wait_found(backup, {(backup.name, what) for what in (*names, "keepalived")})
    texts = [one["text"] for one in check(backup)[1]["findings"]]
    assert any("write HashSize 65536 instead of 8192" in text for text in texts)
    assert any("remove PollSecs 5" in text for text in texts)
    until(lambda: names <= {what for _, what in found(peer)}, SOON_S, "the peer does not say so")
    backup.write_text(CONNTRACKD_CONF, ours)
    for service in ("conntrackd", "keepalived"):
        backup.stop_service(service)
        backup.start_service(service)
    for node in (backup, peer):
        wait_found(node, set())


def test_without_an_agent_this_node_is_checked_all_the_same(lab: Lab) -> None:
    first, second = (lab.node(name) for name in lab.firewalls)
    second.stop_service("agent")
    second.run(["sysctl", "-w", f"{FORWARD}=0"])
    try:
        wait_found(first, {(first.name, "peer")})
        wait_found(second, {(second.name, "agent"), (second.name, FORWARD)})
        assert not check(second)[1]["compared"]
    finally:
        second.run(["sysctl", "-w", f"{FORWARD}=1"])
        second.start_service("agent")
    for node in (first, second):
        wait_found(node, set())
