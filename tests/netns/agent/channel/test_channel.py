# SPDX-License-Identifier: GPL-2.0-or-later
"""The agents of a pair talk to each other: what each knows of the other, and what it says when they differ.
(What others can do to them: test_outsiders.py. A failover meanwhile: test_failover.py.)"""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from agent.adapters.openssl import make_pair_key
from agent.core.peer import SILENT_S
from agent.paths import Paths
from hafw_lab.client.lab import Fault, FaultKind, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.measure.failover import other
from tests.netns.agent.channel.as_peer import KEY, LIES, arguments, said, speaking, wait_well
from tests.netns.pair_checks import find, records, repair, until, wait_record

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces here need root")]

LATE_S = 30.0
"""By the records' own time, on a busy machine; by its design a condition begins within 2 s."""
RECORD_S = 60.0
HAFW = "/usr/sbin/hafw"


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with Lab.start(LabOptions(), name="channel") as lab:
        yield lab


@pytest.fixture
def lab(started: Lab) -> Lab:
    """The same one for every test, at rest."""
    repair(started)
    for name in started.firewalls:
        started.node(name).signal_service("channel", signal.SIGCONT)
    for name in started.firewalls:
        wait_well(started, name)
    return started


def wait_alarm(node: Node, since_ns: int, condition: str) -> str:
    """What it says. It begins soon after `since_ns`, and once."""
    alarm = wait_record(node, since_ns, RECORD_S, event="alarm", condition=condition)
    assert (int(str(alarm["mono_ns"])) - since_ns) / 1e9 < LATE_S
    assert len(find(records(node, since_ns), event="alarm", condition=condition)) == 1
    return str(alarm["message"])


def wait_over(node: Node, since_ns: int, condition: str) -> None:
    over = wait_record(node, since_ns, RECORD_S, event="recovered", condition=condition)
    assert (int(str(over["mono_ns"])) - since_ns) / 1e9 < LATE_S


def alarms(node: Node, since_ns: int) -> set[str]:
    return {str(one["condition"]) for one in find(records(node, since_ns), event="alarm")}


def status_text(node: Node) -> str:
    return node.run([HAFW, "status"], check=False).stdout


# -- what each knows --


def test_each_node_shows_both(lab: Lab) -> None:
    primary = lab.wait_primary(None, 10)
    backup = other(lab, primary)
    for name in lab.firewalls:
        nodes = said(lab, name)["nodes"]
        assert (nodes[primary]["role"], nodes[backup]["role"]) == ("primary", "backup")
        assert (nodes[primary]["gate"], nodes[backup]["gate"]) == ("open", "closed")
        assert (nodes[primary]["keepalived"], nodes[backup]["keepalived"]) == (["MASTER"], ["BACKUP"])
        for node in nodes.values():
            assert node["heard"] == ["eth2", "eth0", "eth1"]
            assert node["states"]["all"] >= 0
        assert len({node["rules"] for node in nodes.values()}) == 1
        assert len({node["pair_file"] for node in nodes.values()}) == 1
        text = status_text(lab.node(name))
        assert f"{name} (this node)" in text
        assert f"{other(lab, name)} (" in text


# -- who is not heard --


def test_a_dead_sync_link_and_a_dead_peer_are_two_sentences(lab: Lab) -> None:
    primary = lab.wait_primary(None, 10)
    backup = other(lab, primary)
    cut_ns = lab.fail(backup, Fault(FaultKind.LINK, "eth2"))
    for name in lab.firewalls:
        text = wait_alarm(lab.node(name), cut_ns, "peer-path")
        assert text.startswith("the sync link does not carry the agents' words (eth2)")
        assert "peer" not in alarms(lab.node(name), cut_ns)
        assert said(lab, name)["nodes"][other(lab, name)]["heard_seconds_ago"] < SILENT_S
    healed_ns = time.monotonic_ns()
    lab.heal(backup)
    for name in lab.firewalls:
        wait_over(lab.node(name), healed_ns, "peer-path")
        wait_well(lab, name)
    cut_ns = lab.fail(backup, Fault(FaultKind.POWER))
    text = wait_alarm(lab.node(primary), cut_ns, "peer")
    assert text == f"the agent of {backup} is heard by no path (eth2, eth0, eth1)"
    assert "peer-path" not in alarms(lab.node(primary), cut_ns)
    healed_ns = time.monotonic_ns()
    lab.heal(backup)
    wait_over(lab.node(primary), healed_ns, "peer")


def test_a_process_that_hangs_is_not_the_peer(lab: Lab) -> None:
    """On the one node it is that which speaks for the agent, on the other it is the peer."""
    one, two = (lab.node(name) for name in lab.firewalls)
    stopped_ns = one.signal_service("channel", signal.SIGSTOP)
    assert "does not answer" in wait_alarm(one, stopped_ns, "peer-key")
    assert "is heard by no path" in wait_alarm(two, stopped_ns, "peer")
    assert alarms(one, stopped_ns) == {"peer-key"}
    resumed_ns = one.signal_service("channel", signal.SIGCONT)
    wait_over(one, resumed_ns, "peer-key")
    wait_over(two, resumed_ns, "peer")


def test_without_a_key_nobody_is_talked_to(lab: Lab) -> None:
    one, two = (lab.node(name) for name in lab.firewalls)
    kept = f"{KEY}.kept"
    since_ns = time.monotonic_ns()
    one.run(["mv", KEY, kept])
    try:
        assert "hafw pair key" in wait_alarm(one, since_ns, "peer-key")
        wait_alarm(two, since_ns, "peer")
        assert "peer" not in alarms(one, since_ns), "nobody is missed that is not asked"
    finally:
        back_ns = time.monotonic_ns()
        one.run(["mv", kept, KEY])
    wait_over(one, back_ns, "peer-key")
    wait_over(two, back_ns, "peer")
    open_ns = time.monotonic_ns()
    one.run(["chmod", "644", KEY])
    try:
        assert f"chmod 600 {KEY}" in wait_alarm(one, open_ns, "peer-key")
    finally:
        one.run(["chmod", "600", KEY])
    wait_over(one, open_ns, "peer-key")


def test_another_key_is_another_peer_until_both_have_it(lab: Lab) -> None:
    one, two = (lab.node(name) for name in lab.firewalls)
    how = f"it has another key: type on {two.name}: ssh root@{one.name} cat {KEY} | hafw pair join -"
    since_ns = time.monotonic_ns()
    one.write_text("/run/new.pem", make_pair_key())
    try:
        assert "wrote" in one.run([HAFW, "pair", "join", "/run/new.pem"]).stdout
        for node in (one, two):
            assert how in wait_alarm(node, since_ns, "peer")
            until(partial(says_how_to_join, node, since_ns), RECORD_S, f"{node.name} does not say why")
    finally:
        two.write_text("/run/new.pem", one.read_text(KEY))
        joined_ns = time.monotonic_ns()
        two.run([HAFW, "pair", "join", "/run/new.pem"])
    for node in (one, two):
        wait_over(node, joined_ns, "peer")


def says_how_to_join(node: Node, since_ns: int) -> bool:
    said = [str(one["message"]) for one in find(records(node, since_ns), event="refused")]
    return any("it has another key: on one of the nodes, hafw pair join" in one for one in said)


# -- what differs --


def test_two_primaries_know_it_while_one_link_is_whole(lab: Lab) -> None:
    """VRRP is blocked, and nothing else."""
    chains = "".join(
        f"chain {link} {{\n type filter hook ingress device {link} priority 0\n ip protocol vrrp drop\n}}\n"
        for link in ("eth0", "eth1")
    )
    cut_ns = time.monotonic_ns()
    try:
        for name in lab.firewalls:
            lab.node(name).run(["nft", "-f", "-"], input=f"table netdev cut {{\n{chains}}}\n")
        for name in lab.firewalls:
            text = wait_alarm(lab.node(name), cut_ns, "split-brain")
            assert text == f"both nodes are primary, {name} and {other(lab, name)}"
            assert lab.node(name).run([HAFW, "status"], check=False).returncode == 2
    finally:
        healed_ns = time.monotonic_ns()
        for name in lab.firewalls:
            lab.node(name).run(["nft", "delete table netdev cut"], check=False)
    for name in lab.firewalls:
        wait_over(lab.node(name), healed_ns, "split-brain")


def test_no_primary_on_either_node(lab: Lab) -> None:
    stopped_ns = time.monotonic_ns()
    try:
        for name in lab.firewalls:
            lab.node(name).stop_service("keepalived")
        for name in lab.firewalls:
            text = wait_alarm(lab.node(name), stopped_ns, "neither-primary")
            assert text.startswith(f"no node is primary: {name} is ")
            assert f", {other(lab, name)} is " in text
    finally:
        started_ns = time.monotonic_ns()
        for name in lab.firewalls:
            lab.node(name).start_service("keepalived")
    for name in lab.firewalls:
        wait_over(lab.node(name), started_ns, "neither-primary")


def test_a_policy_that_only_one_node_has(lab: Lab) -> None:
    node = lab.node(lab.firewalls[0])
    before = node.read_text(Paths().pair_file)
    node.write_text("/run/other.yaml", before + "\nzones: {client: {log: true}}\n")
    since_ns = time.monotonic_ns()
    node.run([HAFW, "rules", "apply", "--this-node", "/run/other.yaml"], timeout_s=30)
    for name in lab.firewalls:
        wait_alarm(lab.node(name), since_ns, "pair-files-differ")
        wait_alarm(lab.node(name), since_ns, "rules-differ")
    back_ns = time.monotonic_ns()
    node.run([HAFW, "rules", "rollback", "--this-node"], timeout_s=30)
    for name in lab.firewalls:
        wait_over(lab.node(name), back_ns, "pair-files-differ")
        wait_over(lab.node(name), back_ns, "rules-differ")


def test_a_peer_whose_words_differ(lab: Lab) -> None:
    """In its place speaks one that has the key: of two machines these would be two kernels and clocks."""
    liar, victim = lab.firewalls
    node = lab.node(victim)
    lab.node(liar).signal_service("channel", signal.SIGSTOP)
    lies = arguments(lab, liar, ahead_s=7, versions={"hafw": "0.1", "moon": "full"})
    since_ns = time.monotonic_ns()
    with speaking(lab.node(liar), LIES, lies):
        assert "hafw" in (text := wait_alarm(node, since_ns, "versions-differ"))
        assert "0.1" in text
        assert "moon" not in text, "what only one node knows is no difference"
        text = wait_alarm(node, since_ns, "clocks-differ")
        assert f"the clock of {liar} is 7." in text or f"the clock of {liar} is 6." in text
        assert alarms(node, since_ns) == {"versions-differ", "clocks-differ"}
        assert "0.1" in status_text(node)
    true_ns = time.monotonic_ns()
    lab.node(liar).signal_service("channel", signal.SIGCONT)
    until(lambda: said(lab, victim)["problems"] == {}, RECORD_S, lambda: said(lab, victim)["problems"])
    for condition in ("versions-differ", "clocks-differ"):
        wait_over(node, true_ns, condition)
