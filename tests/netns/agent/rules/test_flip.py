# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes through while the gate opens and closes, again and again."""

import os
from collections.abc import Iterator

import pytest

from agent.core.roles import RuleSet
from tests.netns.firewall import Firewall, start_firewall
from tests.netns.flood import FORBIDDEN_PORT, LIMIT_S, Flood
from tests.netns.pair_checks import until

pytestmark = [pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="namespaces here need root")]

FLIPS = 300
ROUNDS = 20


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    with start_firewall() as made:
        made.rules.load(RuleSet.PRIMARY)
        yield made


def test_not_one_forbidden_packet_slips_through_a_flip(firewall: Firewall) -> None:
    """The way from open to closed and back takes the kernel microseconds: as many packets as can be sent."""
    flood = Flood(firewall, FORBIDDEN_PORT, pause_s=0)
    with flood.running():
        for _ in range(FLIPS // 2):
            firewall.rules.flip(RuleSet.BACKUP)
            firewall.rules.flip(RuleSet.PRIMARY)
        flood.resume()
        assert flood.came() == 0
    assert flood.sent > FLIPS
    assert firewall.count("early") > 0


def test_none_passes_once_a_flip_has_closed_the_gate(firewall: Firewall) -> None:
    """Also of a connection that is known."""
    flood = Flood(firewall, pause_s=0.0001)
    with flood.running():
        for _ in range(ROUNDS):
            firewall.rules.flip(RuleSet.PRIMARY)
            until(lambda: flood.came() > 0, LIMIT_S, "the open gate lets nothing through")
            firewall.rules.flip(RuleSet.BACKUP)
            flood.came()
            flood.resume()
            assert flood.came() == 0
    assert firewall.rules.verify(RuleSet.BACKUP).drift is None
