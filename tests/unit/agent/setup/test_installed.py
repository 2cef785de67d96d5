# SPDX-License-Identifier: GPL-2.0-or-later
"""The installed files against the pair file: what is older is named, and what says the same is not."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import loader
from agent.config.loader import parse
from agent.errors import HafwError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.render import conntrackd
from agent.setup.installed import InstalledFiles
from agent.setup.plan import plan_setup
from tests.checkout import GOLDEN
from tests.unit.agent.small_pair import SMALL, SMALL_6

FOLDER = GOLDEN / "render"
PAIRS = {
    "small": parse(SMALL),
    "IPv6": parse(SMALL_6),
    **{case.parent.name: loader.load(case) for case in sorted(FOLDER.glob("*/hafw.yaml"))},
}
Changed = Callable[[str], str]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    etc = {
        name: tmp_path / value.relative_to("/etc")
        for name in Paths.__dataclass_fields__
        if (value := getattr(Paths(), name)).is_relative_to("/etc") and name != "pair_file"
    }
    return replace(Paths(), **etc)


def install(pair: Pair, paths: Paths) -> str:
    """As `hafw setup` does; returns the node."""
    node = pair.nodes[0].name
    for file in plan_setup(pair, node, paths):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text(file.text)
    return node


def change(path: Path, how: Changed) -> None:
    old = path.read_text()
    assert how(old) != old
    path.write_text(how(old))


def by_hand(text: str) -> str:
    """Without our mark, and with a comment that says so."""
    return "! mine\n" + text.partition("\n")[2]


def without_source(text: str) -> str:
    text = re.sub(r"(?m)^ *mcast_src_ip .*\n", "", text)
    return re.sub(r"static_ipaddress \{[^}]*\}\n", "", text)


@pytest.mark.parametrize("name", PAIRS)
def test_what_setup_has_written_is_as_it_should_be(name: str, paths: Paths) -> None:
    pair = PAIRS[name]
    node = install(pair, paths)
    assert InstalledFiles(node, paths).find_outdated(pair) == ()
    for path in (paths.keepalived_config, paths.conntrackd_config):
        change(
            path, lambda text: text.replace("\n    ", "\n\t\t# in other words\n\t").replace("# ", "#  ", 1)
        )
        change(path, lambda text: text.replace("#  hafw render", "# hafw render"))
    assert InstalledFiles(node, paths).find_outdated(pair) == (), "comments and blanks are no settings"
    for path in (paths.keepalived_config, paths.conntrackd_config):
        change(path, by_hand)
    assert InstalledFiles(node, paths).find_outdated(pair) == ()


@pytest.mark.parametrize("name", ["IPv6", "dual-stack"])
def test_a_keepalived_conf_from_before_an_upgrade(name: str, paths: Paths) -> None:
    pair = PAIRS[name]
    node = install(pair, paths)
    change(paths.keepalived_config, without_source)
    (found,) = InstalledFiles(node, paths).find_outdated(pair)
    assert found.startswith(f"{paths.keepalived_config} was rendered from another pair file or by another")
    assert re.search(r"\(without: .*fe80::6861:6677:", found)


def test_made_by_hand_a_sender_that_the_rules_cannot_know(paths: Paths) -> None:
    """They learn it from IPv4 on the same link, where there is some."""
    for name, number in (("IPv6", 1), ("dual-stack", 0)):
        pair = PAIRS[name]
        node = install(pair, paths)
        change(paths.keepalived_config, lambda text: by_hand(without_source(text)))
        assert len(InstalledFiles(node, paths).find_outdated(pair)) == number
    pair = PAIRS["IPv6"]
    node = install(pair, paths)
    change(paths.keepalived_config, by_hand)
    change(
        paths.keepalived_config, lambda text: re.sub("(?m)mcast_src_ip .*$", "mcast_src_ip fe80::7", text)
    )
    (found,) = InstalledFiles(node, paths).find_outdated(pair)
    assert (
        f"{paths.keepalived_config} is not suitable for a pair with the agent: write mcast_src_ip fe80::68"
        in found
    )
    assert "both nodes become primary, and 1 more" in found


@pytest.mark.parametrize(
    ("field", "old", "new", "found"),
    [
        ("keepalived_config", "priority 150", "priority 151", "without: priority 150"),
        ("conntrackd_config", "Port 3780", "Port 3781", "without: Port 3780"),
        ("sysctl_file", "net/ipv4/ip_forward", "net/ipv4/ip_for", "without: net/ipv4/ip_forward"),
        ("nftables_drop_in", "[Service]\n", "[Service]\nUser=x\n", "with: User=x"),
    ],
)
def test_each_kind_of_file(field: str, old: str, new: str, found: str, paths: Paths) -> None:
    pair = PAIRS["small"]
    node = install(pair, paths)
    path = getattr(paths, field)
    change(path, lambda text: text.replace(old, new, 1))
    (said,) = InstalledFiles(node, paths).find_outdated(pair)
    assert str(path) in said
    assert found in said


def test_a_pair_file_that_is_newer_and_an_end(paths: Paths) -> None:
    """The same look again, at what has changed meanwhile."""
    pair = PAIRS["small"]
    installed = InstalledFiles(install(pair, paths), paths)
    assert installed.find_outdated(pair) == ()
    newer = parse(SMALL.replace("192.168.2.1/24", "192.168.2.7/24"))
    found, _conntrackd = installed.find_outdated(newer)
    assert "60-hafw-eth1.network" in found
    assert "without: Address=192.168.2.7/24" in found
    install(newer, paths)
    assert installed.find_outdated(newer) == ()
    paths.keepalived_config.unlink()
    assert installed.find_outdated(newer) == (), "who configures otherwise has other files, or none"


def test_what_cannot_be_judged(paths: Paths) -> None:
    pair = PAIRS["small"]
    node = install(pair, paths)
    paths.keepalived_config.write_text("include /etc/keepalived/*.conf\n")
    paths.conntrackd_config.write_text(conntrackd.render(pair, node, paths, privileged=False))
    assert InstalledFiles(node, paths).find_outdated(pair) == ()
    paths.keepalived_config.unlink()
    paths.keepalived_config.mkdir()
    with pytest.raises(HafwError, match="not a regular file"):
        InstalledFiles(node, paths).find_outdated(pair)
