# SPDX-License-Identifier: GPL-2.0-or-later
"""The golden cases in a real kernel: each packet of each table is sent, and becomes what the table says."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address

import pytest

from agent.config.loader import load
from agent.core.roles import RuleSet
from tests.checkout import GOLDEN
from tests.netns.wire import Packet, Wire, start_wire

pytestmark = pytest.mark.netns
FOLDER = GOLDEN / "rules"
CASES = sorted(case.name for case in FOLDER.iterdir())


def lines_of(case: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate((FOLDER / case / "packets.txt").read_text().splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line


@pytest.mark.parametrize("case", CASES)
def test_packets(case: str) -> None:
    """A line is a role, `route NETWORK INTERFACE`, `nft COMMAND`, or a packet and its fate, `*` for any."""
    pair = load(FOLDER / case / "hafw.yaml")
    wrong, sent = [], 0
    with start_wire(pair, pair.nodes[0].name) as wire:
        for number, line in lines_of(case):
            left, arrow, wanted = (part.strip() for part in line.partition("->"))
            if not arrow:
                prepare(wire, left)
                continue
            interface, source, target, what = left.split()
            sent += 1
            found = wire.send(Packet(interface, ip_address(source), ip_address(target), what))
            if not fnmatchcase(found, wanted):
                wrong.append(f"line {number}: {' '.join(left.split())} -> {found}, not {wanted}")
        assert wire.drift() is None
    assert sent
    assert not wrong, "\n".join(wrong)


def prepare(wire: Wire, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "route":
        network, interface = rest.split()
        wire.route(network, interface)
    elif word == "nft":
        wire.node.run("nft", rest)
    else:
        # traffic, and elements that somebody put into a dynamic set, are no change of the rules
        assert wire.drift() is None
        wire.be(RuleSet(word))


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_about_both_roles_and_the_versions_it_has(case: str) -> None:
    pair = load(FOLDER / case / "hafw.yaml")
    lines = [line for _, line in lines_of(case)]
    assert {role.value for role in RuleSet} <= set(lines)
    for version in {vip.version for _, vip in pair.vips()}:
        assert any("->" in line and ip_address(line.split()[1]).version == version for line in lines)
