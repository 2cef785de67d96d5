# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair file -> the files of keepalived, conntrackd and the kernel, against golden cases.

HAFW_WRITE_GOLDEN=1 writes the golden files again; read the diff before you keep it.
"""

import os
from dataclasses import replace

import pytest

from agent.config.loader import load
from agent.model.pair import Node, Pair
from agent.paths import Paths
from agent.render import conntrackd, keepalived, networkd
from agent.render.kinds import Rendered
from agent.render.renderers import RENDERERS
from tests.checkout import GOLDEN

FOLDER = GOLDEN / "render"
CASES = sorted(case.name for case in FOLDER.iterdir())


def pair_of(case: str) -> Pair:
    return load(FOLDER / case / "hafw.yaml")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("what", Rendered)
@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, what: Rendered, index: int) -> None:
    pair = pair_of(case)
    node = pair.nodes[index].name
    text = RENDERERS[what].render(pair, node, Paths())
    golden = FOLDER / case / f"{what.value}-{node}.conf"
    if os.environ.get("HAFW_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_golden_file_is_checked() -> None:
    expected = {
        FOLDER / case / f"{what.value}-{node.name}.conf"
        for case in CASES
        for what in Rendered
        for node in pair_of(case).nodes
    }
    assert set(FOLDER.glob("*/*.conf")) == expected


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [((150, 140), -11), ((140, 150), -11), ((100, 101), -2), ((254, 1), -253), ((250, 100), -151)],
)
def test_a_node_without_states_comes_behind_a_ready_peer(priorities: tuple[int, int], expected: int) -> None:
    nodes = (Node("a", priorities[0]), Node("b", priorities[1]))
    demotion = keepalived.not_ready(replace(pair_of("pair"), nodes=nodes))
    assert demotion == expected
    assert demotion > -254, "keepalived takes -254 for a fault, and a lone node could not run"
    for me, peer in (nodes, nodes[::-1]):
        # keepalived keeps priorities at 1 or above
        assert max(1, me.priority + demotion) <= peer.priority


def test_only_plain_notify_is_used() -> None:
    """It is the one form that keepalived gives arguments to, and every instance and the group need it."""
    text = keepalived.render(pair_of("dual-stack"), "fw-1", Paths())
    assert text.count('notify "/usr/libexec/hafw/notify"') == 5
    assert "notify_" not in text


def test_a_realtime_keepalived_may_compute_for_longer_than_its_own_default() -> None:
    """With the default of 10 ms the kernel kills the vrrp process while it becomes primary."""
    lines = keepalived.render(pair_of("pair"), "fw-1", Paths()).split("\n")
    limit = next(int(line.split()[1]) for line in lines if "vrrp_rlimit_rttime" in line)
    assert limit >= 500_000


@pytest.mark.parametrize(("vrid", "end"), [(1, "201"), (16, "210"), (255, "2ff")])
def test_link_local_address_of_the_virtual_router(vrid: int, end: str) -> None:
    assert str(keepalived.router_link_local(vrid)) == f"fe80::200:5eff:fe00:{end}/64"


def test_conntrackd_of_a_user_namespace_sets_no_socket_buffers() -> None:
    pair = pair_of("pair")
    assert "SocketBuffer" in conntrackd.render(pair, "fw-1", Paths())
    assert "SocketBuffer" not in conntrackd.render(pair, "fw-1", Paths(), privileged=False)


@pytest.mark.parametrize("case", CASES)
def test_commit_timeout_stands_where_it_is_legal(case: str) -> None:
    pair = pair_of(case)
    text = conntrackd.render(pair, pair.nodes[0].name, Paths())
    assert ("CommitTimeout" in text) == ("DisableExternalCache no" in text)


def test_hash_size_is_above_the_trap() -> None:
    assert conntrackd.HASH_SIZE > 8192


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eth0", None),
        ("eth0.1", ("eth0", 1)),
        ("bond0.4094", ("bond0", 4094)),
        ("eth0.4095", None),
        ("eth0.0", None),
        ("eth0.007", None),
        ("eth0.lan", None),
        ("eth0.100.200", ("eth0.100", 200)),
    ],
)
def test_a_vlan_is_known_by_its_name(name: str, expected: tuple[str, int] | None) -> None:
    assert networkd.vlan_of(name) == expected


def test_a_link_below_a_vlan_gets_a_file_also_when_the_pair_does_not_name_it() -> None:
    pair = pair_of("pair")
    stacked = replace(pair.interfaces[0], name="eth9.7.8")
    files = dict(networkd.files(replace(pair, interfaces=(stacked, *pair.interfaces[1:])), "fw-1"))
    assert "VLAN=eth9.7\n" in files["60-hafw-eth9.network"]
    assert "VLAN=eth9.7.8\n" in files["60-hafw-eth9.7.network"]
    assert "Id=8\n" in files["60-hafw-eth9.7.8.netdev"]
    assert "60-hafw-eth9.netdev" not in files
    assert list(files) == sorted(files)


@pytest.mark.parametrize("case", CASES)
def test_virtual_addresses_are_left_to_keepalived(case: str) -> None:
    pair = pair_of(case)
    for node in pair.nodes:
        said = networkd.render(pair, node.name, Paths())
        assert [vip for _, vip in pair.vips() if f"={vip}\n" in said] == []
