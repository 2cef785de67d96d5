# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of Debian 12: boot, power cut, return. Debian 13 has four machines in test_all_machines.py."""

import pytest

from tests.vm.guests import Say, StartPair, living_connections, longest_stall_ms
from tests.vm.story import check_boot, check_power_cut

pytestmark = pytest.mark.vm


def test_power_cut(start_pair: StartPair, say: Say) -> None:
    with start_pair("bookworm", "bookworm") as lab:
        check_boot(lab, "fw-1")
        with living_connections(lab, "fw-2") as traffic:
            check_power_cut(lab, traffic, before_cut=lambda _: None)
            say(f"power cut, bookworm: longest stall {longest_stall_ms(traffic):.0f} ms")
