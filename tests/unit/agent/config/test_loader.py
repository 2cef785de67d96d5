# SPDX-License-Identifier: GPL-2.0-or-later
"""The pair file: what is read from it. (What is refused: test_problems.py.)"""

from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from agent.config.loader import load, parse
from agent.errors import ConfigError
from agent.model.pair import AfterLimit, Drift, Failover, Gate, PortRange, Protocol, Sync, SyncMode
from tests.checkout import EXAMPLES
from tests.unit.agent.small_pair import SMALL

EXAMPLE = (EXAMPLES / "pair.yaml").read_text()


def test_example() -> None:
    pair = parse(EXAMPLE)
    assert [node.name for node in pair.nodes] == ["fw-1", "fw-2"]
    assert [interface.name for interface in pair.data_interfaces] == ["eth0", "eth1"]
    assert pair.sync_interfaces[0].own("fw-2") == (ip_interface("192.168.1.2/24"),)
    assert (pair.failover, pair.sync, pair.gate) == (
        Failover(100, False),
        Sync(),
        Gate(10.0, AfterLimit.OPEN),
    )
    names = [service.name for service in pair.policy[0].services]
    assert names == ["ssh", "http", "https", "ftp", "icmp", "udp 5353", "tcp 8000-8100"]
    assert pair.policy[0].services[3].helper == "ftp"
    assert pair.policy[0].services[4].protocol is Protocol.ICMP
    assert pair.policy[0].services[6].ports == (PortRange(8000, 8100),)
    assert pair.management.sources == (ip_network("192.168.2.0/24"), ip_network("192.168.1.0/24"))


def test_defaults() -> None:
    pair = parse(SMALL)
    assert (pair.failover, pair.sync, pair.gate) == (Failover(), Sync(), Gate())
    assert (pair.policy, pair.nat) == ((), ())
    everywhere = ("192.168.0.0/24", "192.168.2.0/24", "192.168.1.0/24")
    assert pair.management.sources == tuple(map(ip_network, everywhere))
    assert [service.name for service in pair.management.services] == ["ssh"]


def test_values_are_those_of_the_file() -> None:
    pair = parse(
        SMALL
        + "failover: {advert_interval: 1s, preempt: true}\n"
        + "sync: {mode: cache, port: 4000, refresh: 1500ms}\n"
        + "gate: {limit: 500ms, then: closed}\n"
    )
    assert pair.failover == Failover(1000, True)
    assert pair.sync == Sync(SyncMode.CACHE, 4000, 1.5)
    assert pair.gate == Gate(0.5, AfterLimit.CLOSED)


@pytest.mark.parametrize(
    ("line", "drift"),
    [
        ("", Drift.REPAIR),
        ("drift: repair", Drift.REPAIR),
        ("drift: mend", Drift.REPAIR),
        ("drift: report", Drift.REPORT),
    ],
)
def test_the_word_of_the_first_releases_for_a_repair_is_known(line: str, drift: Drift) -> None:
    assert parse(f"{SMALL}{line}\n").drift is drift
    assert drift.value in ("repair", "report")


def test_the_old_word_is_not_proposed() -> None:
    with pytest.raises(ConfigError, match="did you mean repair") as caught:
        parse(f"{SMALL}drift: repiar\n")
    assert "mend" not in str(caught.value)


def test_ports_become_what_an_nft_set_takes() -> None:
    pair = parse(
        SMALL + "policy: [{from: client, to: server, allow: [{tcp: [443, 80, 90-100, 95-110, 80]}]}]\n"
    )
    (service,) = pair.policy[0].services
    assert service.ports == (PortRange(80, 80), PortRange(90, 110), PortRange(443, 443))


def test_a_word_stands_for_several_services_and_each_is_there_once() -> None:
    pair = parse(SMALL + "policy: [{from: client, to: server, allow: [dns, ssh, dns, {tcp: 1, udp: 2}]}]\n")
    found = [(service.name, service.protocol.value) for service in pair.policy[0].services]
    assert found == [("dns", "udp"), ("dns", "tcp"), ("ssh", "tcp"), ("tcp 1", "tcp"), ("udp 2", "udp")]


def test_a_service_name_stays_short() -> None:
    ports = ", ".join(str(port) for port in range(1, 2000, 3))
    pair = parse(SMALL + f"policy: [{{from: client, to: server, allow: [{{tcp: [{ports}]}}]}}]\n")
    assert pair.policy[0].services[0].name == "tcp 1,... (667 ranges)"


def test_management_networks_do_not_overlap() -> None:
    pair = parse(SMALL + "management: {from: [192.168.2.7, client, 192.168.0.0/16, 10.0.0.1]}\n")
    assert pair.management.sources == (ip_network("192.168.0.0/16"), ip_network("10.0.0.1/32"))


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hafw.yaml"
    path.write_text(SMALL)
    assert load(path).name == "G1"
    for content, message in (
        (b"pair: \xff\n", "not UTF-8 text in line 1"),
        (b"#" * 1_100_000, "at most 1048576"),
        ("pair: é".encode("utf-16"), "not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(ConfigError, match="No such file or directory; write the pair file there"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="is a directory; name a regular file"):
        load(tmp_path)


def test_every_example_is_good() -> None:
    found = sorted(EXAMPLES.glob("*.yaml"))
    assert len(found) >= 2
    for path in found:
        load(path)


def test_there_may_be_two_sync_links_and_no_third() -> None:
    lines = [
        f"  eth{number}: {{zone: sync, addresses: {{fw-1: 10.0.{number}.1/24, fw-2: 10.0.{number}.2/24}}}}\n"
        for number in (3, 4)
    ]
    two = SMALL.replace("interfaces:\n", "interfaces:\n" + lines[0])
    assert parse(two).sync_links == ("eth3", "eth2")
    with pytest.raises(ConfigError, match="eth3 and eth4 are already in zone sync"):
        parse(SMALL.replace("interfaces:\n", "interfaces:\n" + "".join(lines)))
