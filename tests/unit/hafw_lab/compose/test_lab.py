# SPDX-License-Identifier: GPL-2.0-or-later
"""The pure parts of the lab: topology, options, plans, and what the stock kinds get."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import loader
from agent.paths import Paths
from agent.render import keepalived
from hafw_lab import wire
from hafw_lab.client.lab import LabStatus, NodeStatus, ServiceStatus
from hafw_lab.compose import lab, pair_file
from hafw_lab.errors import LabError
from hafw_lab.model.fault import Fault, FaultKind
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology import DEFAULT, compute_mac, fabric_name
from hafw_lab.model.topology_file import load_topology, parse_topology
from hafw_lab.plan.values import LabPlan
from hafw_lab.verbs.main import describe, make_parser

PAIR = loader.parse(pair_file.compose(DEFAULT, LabOptions()))
RENDERED = keepalived.render(PAIR, "fw-1", Paths())


# -- topology --


def test_every_interface_has_an_address_of_its_own() -> None:
    macs = [compute_mac(node.name, link.name) for node in DEFAULT.nodes for link in node.links]
    macs += [
        compute_mac("fabric", fabric_name(node.name, link.name))
        for node in DEFAULT.nodes
        for link in node.links
    ]
    assert len(set(macs)) == len(macs) == 16
    assert all(mac.startswith("52:54:00:") for mac in macs)


def test_fabric_names_fit_and_differ() -> None:
    long = [fabric_name("a-very-long-host-name", f"eth{number}") for number in range(9)]
    assert all(len(name) == 15 for name in long)
    assert len(set(long)) == 9
    assert fabric_name("fw-1", "eth0") == "fw-1.eth0"


FILE = """
segments:
  br0: {zone: server, vip: 192.168.0.100/24, vrid: 62}
  br1: {zone: client, vip: 192.168.2.100/24, vrid: 61}
  br2: {zone: sync}
nodes:
  client: {links: {eth0: {segment: br1, addresses: 192.168.2.10/24}}, routes: {default: 192.168.2.100}}
  fw-1:
    firewall: {priority: 150}
    links:
      eth0: {segment: br0, addresses: 192.168.0.1/24}
      eth1: {segment: br1, addresses: 192.168.2.1/24}
      eth2: {segment: br2, addresses: 192.168.1.1/24}
  fw-2:
    firewall: {priority: 140}
    links:
      eth0: {segment: br0, addresses: 192.168.0.2/24}
      eth1: {segment: br1, addresses: 192.168.2.2/24}
      eth2: {segment: br2, addresses: 192.168.1.2/24}
  omarine: {links: {eth0: {segment: br0, addresses: 192.168.0.3/24}}}
"""


def test_the_built_in_topology_can_be_written_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text(FILE)
    assert load_topology(path) == DEFAULT


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("segments:", "segment:", "the file: unknown key 'segment'; known are segments, nodes"),
        ("br2: {zone: sync}", "br2: {}", "segments.br2.zone is missing"),
        (
            "vip: 192.168.0.100/24",
            "vip: 192.168.0.100",
            "segments.br0.vip: '192.168.0.100' is not an",
        ),
        ("vrid: 62", "vrid: yes", "segments.br0.vrid: 'yes' is not a number"),
        (
            "segment: br1, addresses: 192.168.2.10/24",
            "segment: br9, addresses: []",
            "there is no segment 'br9'",
        ),
        (
            "default: 192.168.2.100",
            "default: here",
            "nodes.client.routes: 'default' via 'here' is not",
        ),
        ("priority: 150", "priority: high", "nodes.fw-1.firewall.priority must be a number"),
        ("client: {links", "'cli ent': {links", "nodes: 'cli ent' is not a valid name"),
        ("{eth0: {segment: br1", "{eth0/x: {segment: br1", "'eth0/x' is not a valid interface name"),
        ("nodes:", "nodes: [", "is not valid YAML"),
    ],
)
def test_a_wrong_topology_file_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert FILE.count(old) >= 1
    path = tmp_path / "topology.yaml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(LabError) as caught:
        load_topology(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "text", 5, {"segments": []}, {"segments": {1: {}}, "nodes": {}}])
def test_something_else_than_a_topology_is_refused(data: object) -> None:
    with pytest.raises(LabError):
        parse_topology(data)


# -- options --


@pytest.mark.parametrize(
    "text", ["power", "link:eth0", "keepalived", "keepalived-stop", "conntrackd", "agent", "bus"]
)
def test_a_fault_is_read_as_it_is_written(text: str) -> None:
    assert str(Fault.parse(text)) == text


@pytest.mark.parametrize("text", ["", "link", "link:", "power:eth0", "power:", "fire", ":eth0"])
def test_an_unknown_fault_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(LabError, match="choose one of power, link:IF"):
        Fault.parse(text)


@pytest.mark.parametrize(("text", "expected"), [("100ms", 100), ("1s", 1000), ("20ms", 20)])
def test_advert_interval(text: str, expected: int) -> None:
    assert make_parser().parse_args(["up", "--advert", text]).advert == expected


@pytest.mark.parametrize("text", ["", "ms", "100", "1m", "1sm", "1.5s", "٣ms"])
def test_a_wrong_advert_interval_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["up", "--advert", text])
    assert "write for example 100ms or 1s" in capsys.readouterr().err


def test_the_parser_takes_what_the_help_shows() -> None:
    args = make_parser().parse_args(["exec", "client", "--", "ping", "-c3", "--", "x"])
    assert args.command[-4:] == ["ping", "-c3", "--", "x"]
    assert make_parser().parse_args(["fail", "fw-1", "--how", "link:eth0"]).how == Fault(
        FaultKind.LINK, "eth0"
    )
    assert make_parser().parse_args(["fail", "fw-1"]).how == Fault(FaultKind.POWER)


# -- plans --


@pytest.mark.parametrize("agent", list(AgentKind))
def test_a_plan_survives_the_wire(agent: AgentKind) -> None:
    plan = lab.plan_lab("t", DEFAULT, LabOptions(agent=agent), privileged=True)
    mine, theirs = wire.make_pair()
    with mine, theirs:
        wire.send(mine, plan.to_json())
        received = wire.receive(theirs)
    assert received is not None
    assert LabPlan.from_json(received[0]) == plan


def test_what_the_pair_refuses_the_lab_refuses() -> None:
    with pytest.raises(LabError, match=r"failover\.advert_interval"):
        lab.plan_lab("t", DEFAULT, LabOptions(advert_interval_ms=15), privileged=True)
    lonely = replace(DEFAULT, nodes=tuple(node for node in DEFAULT.nodes if node.name != "fw-2"))
    with pytest.raises(LabError, match="a pair has two firewalls, this topology has 1"):
        lab.plan_lab("t", lonely, LabOptions(), privileged=True)


def test_options_of_the_lab_reach_the_pair_file() -> None:
    policy = ({"from": "server", "to": "client", "allow": ["ssh"]},)
    options = LabOptions(nat=False, preempt=True, advert_interval_ms=20, policy=policy)
    pair = loader.parse(pair_file.compose(DEFAULT, options))
    assert (pair.nat, pair.failover.preempt, pair.failover.advert_interval_ms) == ((), True, 20)
    assert [(one.from_zone, one.to_zone) for one in pair.policy] == [
        ("client", "server"),
        ("server", "client"),
    ]


def test_only_the_stock_kinds_hang_the_stock_script_in() -> None:
    stock = lab.hang_in(RENDERED, AgentKind.STOCK)
    bare = lab.hang_in(RENDERED, AgentKind.NONE)
    assert stock.count("primary-backup.sh") == 3
    assert 'notify_master "/etc/conntrackd/primary-backup.sh primary"' in stock
    for text in (stock, bare):
        assert "/usr/libexec/hafw" not in text
        assert "track_file" not in text
        assert text.count("{") == text.count("}")
    kept = [line for line in stock.splitlines() if "primary-backup" not in line]
    assert kept == bare.splitlines()
    assert set(bare.splitlines()) < set(RENDERED.splitlines()), "nothing else is changed"


def test_a_renderer_that_has_changed_is_noticed() -> None:
    with pytest.raises(LabError, match="cannot hang the stock script in"):
        lab.hang_in(RENDERED.replace("notify ", "notify_priority_changes "), AgentKind.STOCK)
    with pytest.raises(LabError, match="no single sync group"):
        lab.hang_in(RENDERED.replace("vrrp_sync_group", "group_of_vrrp"), AgentKind.STOCK)


def test_stock_rules() -> None:
    plain = lab.stock_rules(PAIR, AgentKind.STOCK)
    assert 'oifname "eth0" ip saddr 192.168.2.0/24 snat ip to 192.168.0.100' in plain
    assert "input" not in plain
    dropping = lab.stock_rules(PAIR, AgentKind.STOCK_DROP)
    assert dropping.startswith(plain)
    assert "hook input priority filter; policy drop;" in dropping


# -- the channel --


def test_files_travel_with_a_message() -> None:
    mine, theirs = wire.make_pair()
    read_end, write_end = os.pipe()
    with mine, theirs:
        wire.send(mine, {"id": 1}, (write_end,))
        received = wire.receive(theirs)
        assert received is not None
        message, files = received
        assert (message, len(files)) == ({"id": 1}, 1)
        os.write(files[0], b"through")
        assert os.read(read_end, 100) == b"through"
    for descriptor in (read_end, write_end, *files):
        os.close(descriptor)


def test_the_end_of_the_channel_is_reported() -> None:
    mine, theirs = wire.make_pair()
    with theirs:
        mine.close()
        assert wire.receive(theirs) is None


def test_a_message_that_is_too_large_is_refused() -> None:
    mine, theirs = wire.make_pair()
    with mine, theirs, pytest.raises(LabError, match="too large"):
        wire.send(mine, {"text": "x" * (1 << 20)})


def test_so_is_one_that_is_too_large_for_the_kernel_only() -> None:
    mine, theirs = wire.make_pair()
    with mine, theirs, pytest.raises(LabError, match="too large"):
        wire.send(mine, {"text": "x" * (1 << 19)})


@pytest.mark.parametrize("letter", ["x", "\x1b", "\U0001f525"], ids=ascii)
def test_the_end_of_a_long_text_fits(letter: str) -> None:
    text = letter * 300_000 + "last words"
    mine, theirs = wire.make_pair()
    with mine, theirs:
        wire.send(mine, {"text": wire.fit(text)})
        received = wire.receive(theirs)
    assert received is not None
    said = received[0]["text"]
    assert text.endswith(said)
    assert len(said) > 5_000
    assert wire.fit("short") == "short"


def test_the_channel_keeps_message_boundaries() -> None:
    assert wire.make_pair()[0].type == socket.SOCK_SEQPACKET


# -- status --


def test_status_names_what_is_wrong() -> None:
    running, stopped = ServiceStatus(True, 5, None), ServiceStatus(False, None, -9)
    fw = NodeStatus(
        name="fw-1",
        firewall=True,
        alive=True,
        vips=("192.168.0.100",),
        links={"eth0": False},
        services={"agent": running, "bus": stopped},
        conntrack=7,
        refused_sysctls=("net/netfilter/x: Permission denied",),
        logs=(),
        agent={"role": "primary"},
    )
    off = replace(fw, name="fw-2", alive=False)
    text = describe(LabStatus("lab", "fw-1", {"agent": "hafw", "sync": "direct"}, (fw, off)))
    assert "primary: fw-1" in text
    wanted = "on; holds 192.168.0.100; link eth0 is down; bus does not run; 7 connections; agent: primary"
    assert wanted in text
    assert "fw-2       off" in text
    assert text.count("not set in this lab: net/netfilter/x: Permission denied") == 1
