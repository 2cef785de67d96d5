# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw setup` says of two keepalived.conf that differ, held against two real keepalived."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator

import pytest

from agent.config import loader
from agent.paths import Paths
from agent.render import keepalived
from agent.setup.wire import wire_differences
from tests.checkout import EXAMPLES
from tests.netns.agent.render.test_daemons import Namespace, start_namespace
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="network namespaces need root")]

PAIR = loader.load(EXAMPLES / "pair.yaml")
FIRST, SECOND = (node.name for node in PAIR.nodes)
LINKS = PAIR.data_interfaces
VIP = str(LINKS[0].vips[0])
LIMIT_S = 60
ENOUGH = 30
"""Advertisements, during which a backup that does not understand them becomes primary."""
Change = Callable[[str], str]


def change(pattern: str, by: str) -> Change:
    def changed(text: str) -> str:
        done = re.sub(pattern, by, text)
        assert done != text, pattern
        return done

    return changed


def version_2(text: str) -> str:
    """With the shortest interval that it has."""
    return change("vrrp_version 3", "vrrp_version 2")(change(r"advert_int \S+", "advert_int 1")(text))


def unicast(text: str) -> str:
    for link in LINKS:
        block = f"interface {link.name}\n    unicast_peer {{\n        {link.own(SECOND)[0].ip}\n    }}\n"
        text = change(f"interface {link.name}\n", block)(text)
    return text


APART: dict[str, Change] = {
    "version": version_2,
    "number": change(r"virtual_router_id (\d+)", r"virtual_router_id 1\1"),
    "an address more": change(r"(virtual_ipaddress \{\n)", r"\1 192.168.0.98/24\n"),
    "group": change(r"(global_defs \{\n)", r"\1 vrrp_mcast_group4 224.0.0.19\n"),
    "unicast": unicast,
}
TOGETHER: dict[str, Change] = {
    "nothing": lambda text: text,
    "interval": change(r"advert_int \S+", "advert_int 0.2"),
    "priority and state": lambda text: change("state BACKUP", "state MASTER")(text).replace("150", "200"),
    "not sent": change(r"( virtual_ipaddress \{\n)", " virtual_ipaddress_excluded {\n 10.9.8.7/24\n }\n\\1"),
    "names and comments": lambda text: text.replace("VI_eth", "other_").replace("state", "! x\n state"),
}


@pytest.fixture
def both() -> Iterator[Namespace]:
    """Two nodes, joined by the links whose packets are forwarded."""
    with start_namespace(rootless=False) as namespace, contextlib.ExitStack() as stack:
        for node in (FIRST, SECOND):
            namespace.must(f"ip netns add {node}")
            stack.callback(namespace.run, f"ip netns delete {node}")
        for link in LINKS:
            namespace.must(
                f"ip link add {link.name} netns {FIRST} type veth peer name {link.name} netns {SECOND}"
            )
            for node in (FIRST, SECOND):
                namespace.must(f"ip -n {node} address add {link.own(node)[0]} dev {link.name}")
                namespace.must(f"ip -n {node} link set {link.name} up")
        yield namespace


def start(namespace: Namespace, node: str, text: str) -> None:
    place = f"/run/{node}"
    namespace.must(f"mkdir {place}")
    namespace.must(f"tee {place}/keepalived.conf >{place}/copy <<'END'\n{text}\nEND")
    pids = f"--pid {place}/parent --vrrp_pid {place}/vrrp"
    namespace.must(
        f"ip netns exec {node} keepalived --vrrp --use-file {place}/keepalived.conf {pids} --log-console"
        f" --dont-fork >{place}/log 2>&1 &"
    )


def holds(namespace: Namespace, node: str) -> bool:
    return VIP in namespace.must(f"ip -n {node} -brief address show dev {LINKS[0].name}")


def run_both(namespace: Namespace, old: str, new: str) -> None:
    """The first node as it was, and primary; the second with the new file."""
    start(namespace, FIRST, old)
    until(lambda: holds(namespace, FIRST), LIMIT_S, lambda: namespace.must(f"cat /run/{FIRST}/log"))
    start(namespace, SECOND, new)


def texts(make: Change) -> tuple[str, str]:
    """What the second node had, and what the pair file makes of it."""
    first, second = (keepalived.render(PAIR, node, Paths()) for node in (FIRST, SECOND))
    return make(first), second


@pytest.mark.parametrize("name", APART)
def test_two_that_are_said_to_differ_are_both_primary(both: Namespace, name: str) -> None:
    old, new = texts(APART[name])
    assert wire_differences("keepalived.conf", old, new)
    if name == "an address more" and "v2.2" not in both.must("keepalived --version"):
        pytest.skip("keepalived 2.3 only complains; the other node may have an older one")
    run_both(both, old, new)
    until(
        lambda: holds(both, FIRST) and holds(both, SECOND),
        LIMIT_S,
        lambda: both.must(f"cat /run/{SECOND}/log"),
    )


@pytest.mark.parametrize("name", TOGETHER)
def test_two_that_are_said_to_agree_have_one_primary(both: Namespace, name: str) -> None:
    old, new = texts(TOGETHER[name])
    run_both(both, old, new)
    link = LINKS[0].name
    both.must(f"ip netns exec {SECOND} tcpdump -n -i {link} -c {ENOUGH} ip proto 112 >/run/seen 2>&1")
    until(
        lambda: holds(both, FIRST) != holds(both, SECOND),
        LIMIT_S,
        lambda: both.must(f"cat /run/{SECOND}/log"),
    )
    assert wire_differences("keepalived.conf", old, new) == ()
