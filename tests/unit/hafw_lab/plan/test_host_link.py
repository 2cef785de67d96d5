# SPDX-License-Identifier: GPL-2.0-or-later
"""The node that is this machine itself: its part of the plan, and what keeps this machine from being one."""

from dataclasses import replace

import pytest

from hafw_lab.arguments.desktops import choose_desktops
from hafw_lab.compose.lab import plan_lab
from hafw_lab.compose.machines import check_machines
from hafw_lab.errors import LabError
from hafw_lab.measure.result import Setup
from hafw_lab.model.options import LabOptions
from hafw_lab.model.topology import DEFAULT
from hafw_lab.plan.host_link import describe_change, link_name, require_room, with_host
from hafw_lab.plan.values import LabPlan, NodePlan

OPTIONS = LabOptions(host="omarine", server_route=True)
PLAN = plan_lab("lab", DEFAULT, OPTIONS, privileged=True)
NOTHING = "[]"


def host_of(plan: LabPlan) -> NodePlan:
    return next(node for node in plan.nodes if node.host)


def test_only_its_own_links_are_in_the_plan() -> None:
    host = host_of(PLAN)
    assert [(cable.name, cable.bridge) for cable in host.cables] == [("hafw-br0", "br0")]
    assert host.network == (
        "addr add 192.168.0.3/24 dev hafw-br0\n"
        "link set hafw-br0 up\n"
        "route add 192.168.2.0/24 via 192.168.0.100\n"
    )
    assert (host.files, host.services, host.sysctls, host.setup) == ((), (), (), ())
    assert [node.name for node in PLAN.nodes if node.host] == ["omarine"]
    assert LabPlan.from_json(PLAN.to_json()) == PLAN


def test_the_other_nodes_do_not_notice() -> None:
    usual = plan_lab("lab", DEFAULT, replace(OPTIONS, host=None), privileged=True)
    assert [one for one in usual.nodes if one.name != "omarine"] == [
        one for one in PLAN.nodes if not one.host
    ]


def test_what_changes_is_said_in_words() -> None:
    assert describe_change(host_of(PLAN)) == (
        "omarine is this machine: until the lab ends it has hafw-br0 and reaches"
        " 192.168.0.0/24, 192.168.2.0/24 there"
    )


def test_names_of_links_fit_and_differ() -> None:
    long = [link_name(f"a-long-bridge-{number}") for number in range(9)]
    assert all(len(name) <= 15 for name in long)
    assert len(set(long)) == 9
    assert link_name("br0") == "hafw-br0"


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("fw-1", "this machine cannot be 'fw-1' of the topology; it can be one of client, omarine"),
        ("nobody", "this machine cannot be 'nobody' of the topology"),
        ("client", "this machine cannot be client, whose default route would lead into the lab"),
    ],
)
def test_a_node_that_this_machine_cannot_be(host: str, message: str) -> None:
    with pytest.raises(LabError) as caught:
        with_host(DEFAULT, host)
    assert message in str(caught.value)


def test_an_ordinary_user_cannot() -> None:
    with pytest.raises(LabError, match="only root can plug this machine into a lab as omarine; use sudo"):
        plan_lab("lab", DEFAULT, OPTIONS, privileged=False)


def test_it_is_no_virtual_machine_as_well() -> None:
    with pytest.raises(LabError, match="omarine is this machine itself"):
        check_machines(DEFAULT, replace(OPTIONS, machines={"omarine": "trixie"}))
    assert choose_desktops("hosts", None, None, DEFAULT, "omarine") == {"client": "qxl"}
    with pytest.raises(LabError, match="there is no node 'omarine' for --desktop"):
        choose_desktops("omarine", None, None, DEFAULT, "omarine")


def test_a_measurement_leaves_the_machine_its_ports() -> None:
    setup = Setup(host="omarine")
    assert {setup.ports.tcp, setup.ports.udp}.isdisjoint({22, 5353})
    (entry,) = setup.options().policy
    assert entry["allow"] == [{"tcp": setup.ports.tcp}, {"udp": setup.ports.udp}]
    assert Setup().options().policy == ()


# -- room --


@pytest.mark.parametrize(
    ("addresses", "routes", "message"),
    [
        (
            '[{"ifname": "eth0", "addr_info": [{"local": "192.168.0.17", "prefixlen": 24}]}]',
            NOTHING,
            r"cannot be omarine: it uses 192.168.0.0/24 already \(192.168.0.17/24 on eth0\)",
        ),
        (
            '[{"ifname": "tun0", "addr_info": [{"local": "192.168.2.9", "prefixlen": 32}]}]',
            NOTHING,
            r"it uses 192.168.2.0/24 already \(192.168.2.9/32 on tun0\)",
        ),
        (
            NOTHING,
            '[{"dst": "default"}, {"dst": "192.168.0.0/16"}]',
            r"it uses 192.168.0.0/24 already \(a route to 192.168.0.0/16\)",
        ),
        (NOTHING, '[{"type": "blackhole", "dst": "192.168.0.5"}]', r"\(a route to 192.168.0.5/32\)"),
        ('[{"ifname": "hafw-br0", "addr_info": []}]', NOTHING, "this machine has a link hafw-br0 already"),
    ],
    ids=["address", "point-to-point", "wider", "host", "link"],
)
def test_there_is_no_room(addresses: str, routes: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        require_room(host_of(PLAN), addresses, routes)


@pytest.mark.parametrize(
    ("addresses", "routes"),
    [
        ('[{"ifname": "eth0", "addr_info": [{"local": "192.168.1.17", "prefixlen": 24}]}]', NOTHING),
        ('[{"ifname": "eth0", "addr_info": [{"local": "fe80::1", "prefixlen": 64}, {}]}, {"ifname": "x"}]',
         NOTHING),
        (NOTHING, '[{"dst": "default"}, {"dst": "0.0.0.0/1"}, {"dst": "128.0.0.0/1"}]'),
        (NOTHING, '[{"dst": "fe80::/64"}, {"dst": "default"}]'),
    ],
    ids=["neighbor", "other", "tunnel", "ipv6"],
)  # fmt: skip
def test_there_is_room(addresses: str, routes: str) -> None:
    require_room(host_of(PLAN), addresses, routes)
