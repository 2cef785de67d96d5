# SPDX-License-Identifier: GPL-2.0-or-later
"""The least pair file, and what is wrong with changed ones."""

import re

import pytest

from agent.config.loader import parse
from agent.errors import ConfigError, Problem

SMALL = """\
version: 1
pair: G1
nodes: {fw-1: {priority: 150}, fw-2: {priority: 140}}
interfaces:
  eth0: {zone: server, vip: 192.168.0.100/24, vrid: 62,
         addresses: {fw-1: 192.168.0.1/24, fw-2: 192.168.0.2/24}}
  eth1: {zone: client, vip: 192.168.2.100/24, vrid: 61,
         addresses: {fw-1: 192.168.2.1/24, fw-2: 192.168.2.2/24}}
  eth2: {zone: sync, addresses: {fw-1: 192.168.1.1/24, fw-2: 192.168.1.2/24}}
"""
SMALL_6 = re.sub(r"192\.168\.(\d)\.(\d+)/24", r"'2001:db8:\1::\2/64'", SMALL)


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.problems
    return caught.value.problems


def changed(old: str, new: str) -> str:
    """SMALL with one thing replaced, or with a section more."""
    assert SMALL.count(old) >= 1, old
    return SMALL.replace(old, new, 1)
