# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses that a dead keepalived has left, and the ends of that suspicion."""

import time

from agent.adapters.vrrp_process import Stat
from agent.engine.suspicion import Suspicion

VIP = frozenset({"192.168.0.100%eth0"})
NONE: frozenset[str] = frozenset()
MINUTE_NS = 60_000_000_000


def begun(before_ns: int) -> Stat:
    return Stat("S", 1, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - before_ns)


def test_what_a_dead_one_held_is_suspected_until_it_is_gone() -> None:
    dead = Suspicion().after(VIP, NONE, None, False)
    assert dead.addresses == VIP
    assert dead.after(VIP, NONE, None, True).addresses == VIP
    assert dead.after(NONE, NONE, None, True).addresses == NONE


def test_one_that_lived_all_the_time_clears_it() -> None:
    dead = Suspicion().after(VIP, NONE, None, False)
    assert dead.after(VIP, NONE, begun(MINUTE_NS), True) == Suspicion()


def test_a_new_one_does_not_clear_what_the_old_one_left() -> None:
    dead = Suspicion().after(VIP, NONE, None, False)
    again = dead.after(VIP, NONE, None, False)
    assert again.since_ns == dead.since_ns
    assert again.after(VIP, NONE, begun(-MINUTE_NS), True).addresses == VIP


def test_an_instance_that_says_master_clears_its_own() -> None:
    both = VIP | {"172.16.0.1%eth1"}
    dead = Suspicion().after(both, NONE, None, False)
    assert dead.after(both, VIP, None, True).addresses == both - VIP
