# SPDX-License-Identifier: GPL-2.0-or-later
"""Which node has a virtual address, asked of the other node's real kernel."""

import select
from contextlib import closing
from ipaddress import ip_address

import pytest

from agent.adapters.address_probe import AddressProbe, AddressQuestion
from agent.core.drill import VipOnLink
from tests.netns.agent.adapters.test_kernel_looks import VIP, VIP6, mac_of
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.netns

OWN = {4: ip_address("192.168.0.1"), 6: ip_address("fd00:0:0:a::1")}
LIMIT_S = 10.0
TIMES = 3
QUIET_S = 0.2
"""An answer on one machine comes within far less."""


def open_probe(here: Namespace, there: Namespace, address: str) -> AddressProbe:
    vip = ip_address(address)
    mac = bytes.fromhex(mac_of(there).replace(":", ""))
    with here.entered():
        return AddressProbe(AddressQuestion(VipOnLink("eth0", vip), OWN[vip.version], mac))


def count_answers(probe: AddressProbe) -> int:
    """To one question."""
    probe.ask()
    return probe.take_answers() if select.select([probe], (), (), LIMIT_S)[0] else 0


@pytest.mark.parametrize("address", [f"{VIP}/24", f"{VIP6}/64"])
def test_a_node_answers_while_it_has_the_address(ends: tuple[Namespace, Namespace], address: str) -> None:
    here, there = ends
    with closing(open_probe(here, there, address.partition("/")[0])) as probe:
        flags = "nodad" if ":" in address else ""
        for _ in range(TIMES):
            there.ip(f"address add {address} dev eth0 {flags}")
            assert count_answers(probe) == 1
            there.ip(f"address del {address} dev eth0")
            probe.ask()
            assert not select.select([probe], (), (), QUIET_S)[0]


def test_a_stranger_with_the_address_is_not_the_other_node(ends: tuple[Namespace, Namespace]) -> None:
    here, there = ends
    with closing(open_probe(here, there, VIP)) as probe:
        there.ip("link set eth0 address 02:00:00:00:00:77")
        there.ip(f"address add {VIP}/24 dev eth0")
        probe.ask()
        assert not select.select([probe], (), (), QUIET_S)[0]


def test_a_link_that_is_down_is_no_error(ends: tuple[Namespace, Namespace]) -> None:
    here, there = ends
    with closing(open_probe(here, there, VIP)) as probe, closing(open_probe(here, there, VIP6)) as probe6:
        here.ip("link set eth0 down")
        for one in (probe, probe6):
            one.ask()
            assert one.take_answers() == 0
