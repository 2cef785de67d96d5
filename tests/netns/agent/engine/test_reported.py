# SPDX-License-Identifier: GPL-2.0-or-later
"""What each node says by itself when the pair is not what its owner believes, with the real daemons. Each
condition begins, gives `hafw status` its exit status, and ends by itself."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from agent.core.conditions import Condition, severity_of
from agent.core.groups import NOTHING_LOOKS
from agent.model.pair import SyncMode
from agent.paths import Paths
from hafw_lab.client.lab import Fault, FaultKind, Lab, LabOptions
from hafw_lab.client.node import Node
from hafw_lab.compose.lab import READINESS
from hafw_lab.measure.failover import other, put_states
from hafw_lab.measure.result import Setup
from tests.netns.pair_checks import LINK_FAULT, find, records, repair, until, wait_record

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="puts files over those of the nodes' kernels"),
]

KEEPALIVED_CONF = str(Paths().keepalived_config)
SOON_S = 20.0
"""What happens at all happens by then, also on a busy machine."""
BLOCK = (
    "add table inet block; add chain inet block it {{ type filter hook prerouting priority -500; }}; {rule}"
)


@pytest.fixture(scope="module", params=[SyncMode.DIRECT])
def started(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab.start(LabOptions(sync=request.param), name="told") as lab:
        yield lab


@pytest.fixture
def lab(started: Lab) -> Lab:
    """The same one for every test, with nothing to say."""
    for name in started.firewalls:
        started.node(name).run(["nft", "delete table inet block"], check=False)
    repair(started)
    for name in started.firewalls:
        until(partial(is_well, started.node(name)), SOON_S * 2, lambda: str(said(started)))
    return started


def status_of(node: Node) -> tuple[int, str]:
    done = node.run(["hafw", "status"], check=False)
    return done.returncode, done.stdout


def is_well(node: Node) -> bool:
    return status_of(node)[0] == 0


def said(lab: Lab) -> list[str]:
    return [status_of(lab.node(name))[1] for name in lab.firewalls]


def wait_alarm(node: Node, since: int, condition: Condition) -> str:
    """Until it is said; it then stands in the status too, which ends with its number. Returns the words."""
    words = str(wait_record(node, since, SOON_S, event="alarm", condition=condition.value)["message"])
    number, text = status_of(node)
    assert f"{condition.value}: " in text
    assert number >= severity_of(condition.value)
    return words


def wait_end(node: Node, since: int, *conditions: Condition) -> None:
    for condition in conditions:
        wait_record(node, since, SOON_S, event="recovered", condition=condition.value)


@contextlib.contextmanager
def blocked(nodes: list[Node], rule: str) -> Iterator[None]:
    """`rule` drops what arrives, before everything else."""
    for node in nodes:
        node.run(["nft", BLOCK.format(rule=f"add rule inet block it {rule} drop")])
    try:
        yield
    finally:
        for node in nodes:
            node.run(["nft", "delete table inet block"])


# -- the sync link --


def test_an_idle_pair_says_nothing(lab: Lab) -> None:
    """Nothing to replicate is not silence."""
    since = time.monotonic_ns()
    time.sleep(10)  # twice as long as silence takes
    for name in lab.firewalls:
        assert records(lab.node(name), since) == []
        assert is_well(lab.node(name))


def test_the_sync_link_is_cut(lab: Lab) -> None:
    """At the end that loses its carrier the kernel reports it; at the other one nothing is heard any
    more."""
    primary = lab.wait_primary(None, 5)
    cut, far = lab.node(other(lab, primary)), lab.node(primary)
    since = lab.set_link(cut.name, "eth2", up=False)
    assert "the sync link is down (eth2 has no carrier)" in wait_alarm(cut, since, Condition.SYNC_LINK)
    words = wait_alarm(far, since, Condition.PEER_SILENT)
    assert f"nothing has come from {cut.name}'s conntrackd over eth2" in words
    assert not find(records(cut, since), event="alarm", condition="peer-silent"), "one cause, one condition"
    back = lab.set_link(cut.name, "eth2", up=True)
    wait_end(cut, back, Condition.SYNC_LINK)
    wait_end(far, back, Condition.PEER_SILENT)


def test_a_peer_whose_conntrackd_says_nothing(lab: Lab) -> None:
    """Links are up, both conntrackd run, and what they send is lost on the way."""
    nodes = [lab.node(name) for name in lab.firewalls]
    since = time.monotonic_ns()
    with blocked(nodes, "iifname eth2 meta l4proto udp"):
        for node in nodes:
            wait_alarm(node, since, Condition.PEER_SILENT)
        back = time.monotonic_ns()
    for node in nodes:
        wait_end(node, back, Condition.PEER_SILENT)


def test_a_failover_while_the_peer_is_silent_says_what_it_may_lack(lab: Lab) -> None:
    victim = lab.wait_primary(None, 5)
    heir = lab.node(other(lab, victim))
    since = time.monotonic_ns()
    with blocked([lab.node(name) for name in lab.firewalls], "iifname eth2 meta l4proto udp"):
        wait_alarm(heir, since, Condition.PEER_SILENT)
        moment = lab.fail(victim, LINK_FAULT)
        done = wait_record(heir, moment, SOON_S, event="transition", to="primary", result="done")
        for words in (str(done["message"]), status_of(heir)[1]):
            assert f"states may be missing: nothing has come from {victim}'s conntrackd" in words
        assert str(done["doubt"]) in str(done["message"])
    lab.heal(victim)


def test_messages_that_were_lost_are_made_good_before_it_is_called_well(lab: Lab) -> None:
    backup = lab.node(other(lab, lab.wait_settled(SOON_S)))
    since = time.monotonic_ns()
    with blocked([backup], "iifname eth2 meta l4proto udp numgen random mod 2 == 0"):
        for port in range(1, 41):  # something to lose
            states = "-p udp -s 1.2.3.4 -d 1.2.3.5 --dport 2 -t 60"
            lab.node(other(lab, backup.name)).run(["conntrack", "-I", *states.split(), "--sport", str(port)])
        words = wait_alarm(backup, since, Condition.REPLICATION)
        # while a catch-up runs, or between two
        assert re.search(
            "[1-9][0-9]* of the peer's messages were lost on the way(;| while) all states", words
        )
        assert "kernel" not in words, "it refused none"
        until(lambda: backup.read_text(READINESS).strip() != "0", SOON_S, "it still says that it is ready")
    end = wait_record(backup, since, 60, event="recovered", condition="replication")
    (alarm,) = find(records(backup, since), event="alarm", condition="replication")
    caught_up = find(records(backup, since), event="step", step="CompareStates", result="done")
    moments = [int(str(one["mono_ns"])) for one in (alarm, *caught_up, end)]
    assert any(moments[0] <= one <= moments[-1] for one in moments[1:-1]), (
        "only a catch-up says that all is there"
    )
    until(lambda: backup.read_text(READINESS).strip() == "0", SOON_S, "it is never ready again")


def test_the_status_tells_how_often_states_are_sent_again(lab: Lab) -> None:
    found = lab.status().node(lab.wait_primary(None, 5)).agent
    assert found is not None
    assert found["states"]["refresh_seconds"] == 5
    assert "the primary sends what would run out every 5 s" in status_of(lab.node(lab.firewalls[0]))[1]


# -- who is primary --


def test_vrrp_is_blocked_and_both_are_primary(lab: Lab) -> None:
    nodes = [lab.node(name) for name in lab.firewalls]
    since = time.monotonic_ns()
    with blocked(nodes, "meta l4proto 112"):
        for node in nodes:
            words = wait_alarm(node, since, Condition.TWO_PRIMARIES)
            assert f"{other(lab, node.name)} (" in words
            assert "answers for 192.168.0.100 on eth0" in words
            assert status_of(node)[0] == 2
        back = time.monotonic_ns()
    for node in nodes:
        wait_end(node, back, Condition.TWO_PRIMARIES)


def test_a_stranger_with_our_address(lab: Lab) -> None:
    primary = lab.node(lab.wait_primary(None, 5))
    client = lab.node("client")
    since = time.monotonic_ns()
    interface = client.run(
        ["sh", "-c", "ip -br address | awk '/192.168.2/ {sub(/@.*/, \"\", $1); print $1}'"]
    )
    client.run(["ip", "address", "add", "192.168.2.100/32", "dev", interface.stdout.strip()])
    try:
        words = wait_alarm(primary, since, Condition.TWO_PRIMARIES)
        assert "another host (" in words
        assert "answers for 192.168.2.100 on eth1" in words
    finally:
        client.run(["ip", "address", "del", "192.168.2.100/32", "dev", interface.stdout.strip()])
    wait_end(primary, since, Condition.TWO_PRIMARIES)


def test_a_segment_is_dead_on_both_nodes(lab: Lab) -> None:
    """Nobody forwards; both say that, and which interface is the reason."""
    nodes = [lab.node(name) for name in lab.firewalls]
    since = time.monotonic_ns()
    for node in nodes:
        lab.set_link(node.name, "eth0", up=False)
    for node in nodes:
        assert "eth0 has no carrier" in wait_alarm(node, since, Condition.FAULT)
        assert "no host answers for 192.168.2.100 (eth1)" in wait_alarm(node, since, Condition.NO_PRIMARY)
        assert status_of(node)[0] == 2
    back = time.monotonic_ns()
    for node in nodes:
        lab.set_link(node.name, "eth0", up=True)
    for node in nodes:
        wait_end(node, back, Condition.FAULT, Condition.NO_PRIMARY)


def test_one_node_in_fault_while_the_other_serves(lab: Lab) -> None:
    victim = lab.wait_primary(None, 5)
    since = lab.fail(victim, LINK_FAULT)
    assert "eth1 has no carrier" in wait_alarm(lab.node(victim), since, Condition.FAULT)
    lab.wait_primary(other(lab, victim), 10)
    time.sleep(8)  # longer than it takes to miss a primary
    for name in lab.firewalls:
        assert not find(records(lab.node(name), since), event="alarm", condition="no-primary")
    assert status_of(lab.node(victim))[0] == 1
    lab.heal(victim)
    wait_end(lab.node(victim), since, Condition.FAULT)


# -- the conntrack table --


def test_the_conntrack_table_fills(lab: Lab) -> None:
    """The limit is the agent's file only: the real one is the whole machine's."""
    limit = "/proc/sys/net/netfilter/nf_conntrack_max"
    primary = lab.wait_primary(None, 5)
    node = lab.node(primary)
    put_states(lab, Setup(sync=SyncMode.DIRECT, states=1000), primary, other(lab, primary), lambda _: None)
    since = time.monotonic_ns()

    def allow(most: int) -> None:
        node.write_text("/run/hafw/most", f"{most}\n")

    allow(1200)
    node.run(["mount", "--bind", "/run/hafw/most", limit])
    try:
        assert "nf_conntrack_max" in wait_alarm(node, since, Condition.TABLE_FILLING)
        assert status_of(node)[0] == 1
        assert not find(records(node, since), event="alarm", condition="table-full")
        allow(900)
        assert "new connections are refused" in wait_alarm(node, since, Condition.TABLE_FULL)
        assert status_of(node)[0] == 2
    finally:
        node.run(["umount", limit])
    wait_end(node, since, Condition.TABLE_FULL, Condition.TABLE_FILLING)


# -- other programs, other interfaces --


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ("forward priority 0; policy drop;", "drops forwarded packets by its policy"),
        ("input priority 0; policy drop;", "drops what is sent to this node"),
    ],
    ids=["forward", "input"],
)
def test_a_table_of_another_program_drops(lab: Lab, chain: str, words: str) -> None:
    node = lab.node(other(lab, lab.wait_primary(None, 5)))
    since = time.monotonic_ns()
    accept = "add rule inet block it iifname != eth9 accept"  # so that the pair works all the same
    node.run(
        ["nft", f"add table inet block; add chain inet block it {{ type filter hook {chain} }}; {accept}"]
    )
    assert f"table inet block chain it {words}" in wait_alarm(node, since, Condition.FOREIGN_DROPS)
    node.run(["nft", "delete table inet block"])
    wait_end(node, since, Condition.FOREIGN_DROPS)


def test_an_interface_in_no_zone(lab: Lab) -> None:
    node = lab.node(other(lab, lab.wait_primary(None, 5)))
    since = time.monotonic_ns()
    for command in (
        "link add guests type veth peer name guest",
        "link set guest up",
        "address add 10.9.0.1/24 dev guests",
        "link set guests up",
    ):
        node.run(["ip", *command.split()])
    assert "guests (10.9.0.1/24): in no zone" in wait_alarm(node, since, Condition.UNZONED_INTERFACE)
    assert status_of(node)[0] == 1
    node.run(["ip", "link", "del", "guests"])
    wait_end(node, since, Condition.UNZONED_INTERFACE)


def test_an_interface_of_the_pair_file_is_not_there(lab: Lab) -> None:
    node = lab.node(other(lab, lab.wait_primary(None, 5)))
    since = time.monotonic_ns()
    rename(node, "eth2", "cable")
    try:
        words = wait_alarm(node, since, Condition.MISSING_INTERFACE)
        assert "eth2 of the pair file does not exist on this node, which has cable, eth0, eth1, lo" in words
        wait_alarm(node, since, Condition.SYNC_LINK)
        until(lambda: "down (eth2 does not exist" in status_of(node)[1], SOON_S, lambda: status_of(node)[1])
    finally:
        rename(node, "cable", "eth2")
    wait_end(node, since, Condition.MISSING_INTERFACE, Condition.SYNC_LINK)


def rename(node: Node, old: str, new: str) -> None:
    for change in ("down", f"name {new}"):
        node.run(["ip", "link", "set", old, *change.split()])
    node.run(["ip", "link", "set", new, "up"])


def test_an_interface_that_was_renamed_leaves_keepalived_deaf(lab: Lab) -> None:
    """It says BACKUP on the bus and in its log, and would never take over."""
    backup = lab.node(other(lab, lab.wait_primary(None, 5)))
    since = time.monotonic_ns()
    rename(backup, "eth1", "aside")
    rename(backup, "aside", "eth1")
    words = wait_alarm(backup, since, Condition.DEAF)
    assert "keepalived no longer listens on eth1" in words
    assert "bus         heard BACKUP" in status_of(backup)[1]
    lab.fail(backup.name, Fault(FaultKind.KEEPALIVED_STOP))
    lab.heal(backup.name)
    wait_end(backup, since, Condition.DEAF)


def test_all_links_were_renamed_before_the_agent_began(lab: Lab) -> None:
    """So that nothing is left that keepalived could be compared with."""
    backup = lab.node(other(lab, lab.wait_primary(None, 5)))
    backup.stop_service("agent")
    for name in ("eth0", "eth1"):
        rename(backup, name, "aside")
        rename(backup, "aside", name)
    since = time.monotonic_ns()
    backup.start_service("agent")
    assert "keepalived no longer listens on eth0, eth1" in wait_alarm(backup, since, Condition.DEAF)
    lab.fail(backup.name, Fault(FaultKind.KEEPALIVED_STOP))
    lab.heal(backup.name)
    wait_end(backup, since, Condition.DEAF)


def test_a_keepalived_conf_that_is_older_than_the_pair_file(lab: Lab) -> None:
    node = lab.node(other(lab, lab.wait_primary(None, 5)))
    text = node.read_text(KEEPALIVED_CONF)
    since = time.monotonic_ns()
    node.write_text(KEEPALIVED_CONF, text.replace("advert_int 0.1", "advert_int 1", 1))
    try:
        words = wait_alarm(node, since, Condition.INSTALLED_FILES)
        assert f"{KEEPALIVED_CONF} was rendered from another pair file" in words
        assert "(without: advert_int 0.1)" in words
        done = node.run(["hafw", "check"])
        (warning,) = [line for line in done.stdout.splitlines() if KEEPALIVED_CONF in line]
        assert warning.startswith("warning: ")
        assert "without: advert_int 0.1" in warning
    finally:
        node.write_text(KEEPALIVED_CONF, text)
    wait_end(node, since, Condition.INSTALLED_FILES)


def test_one_link_is_unicast_since_a_reload(lab: Lab) -> None:
    """The group is left without a restart, and keepalived hears all the same."""
    kept = {name: lab.node(name).read_text(KEEPALIVED_CONF) for name in lab.firewalls}
    nodes = [lab.node(name) for name in lab.firewalls]
    since = time.monotonic_ns()
    try:
        for name, text in kept.items():
            peer = f"unicast_peer {{\n 192.168.2.{2 if name == lab.firewalls[0] else 1}\n}}\n"
            lab.node(name).write_text(
                KEEPALIVED_CONF, re.sub(r"(?m)^( *interface eth1\n)", rf"\1{peer}", by_hand(text))
            )
            lab.node(name).signal_service("keepalived", signal.SIGHUP)
        for node in nodes:
            until(partial(is_unicast, node, "eth1"), SOON_S, "eth1 is not unicast")
        lab.wait_settled(SOON_S)
        time.sleep(NOTHING_LOOKS + 2)  # longer than a report of it takes
        for node in nodes:
            # nor is a file made by hand that says the same one from before. (An instance that a reload has
            # made again is no longer on keepalived's bus, which is a condition of its own.)
            for condition in ("deaf", "installed-files"):
                assert not find(records(node, since), event="alarm", condition=condition)
    finally:
        for name, text in kept.items():
            lab.node(name).write_text(KEEPALIVED_CONF, text)
            lab.node(name).signal_service("keepalived", signal.SIGHUP)
    for node in nodes:
        until(partial(is_multicast, node, "eth1"), SOON_S, "eth1 is not multicast")
    lab.wait_settled(SOON_S)


def by_hand(text: str) -> str:
    """Without the first line, by which hafw knows its own."""
    return text.partition("\n")[2]


def is_multicast(node: Node, link: str) -> bool:
    return "224.0.0.18" in node.run(["ip", "maddress", "show", "dev", link]).stdout


def is_unicast(node: Node, link: str) -> bool:
    return not is_multicast(node, link)
