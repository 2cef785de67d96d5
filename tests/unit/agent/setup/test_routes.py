# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hafw setup` does not carry over: it names it, and says where it belongs."""

from ipaddress import ip_interface
from pathlib import Path

import pytest

from agent.adapters.iproute import HostLink, HostRoute
from agent.setup.host import host_warnings
from agent.setup.notes import rival_notes
from agent.setup.routes import loss_notes
from tests.unit.agent.setup.setup_run import PAIR, install, write

INTERFACES = "etc/network/interfaces"
PLACE = "etc/systemd/network/60-hafw-eth0.network.d/own.conf"


def notes(root: Path, *routes: HostRoute) -> str:
    return "\n".join(loss_notes(PAIR, root, routes))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("gateway 192.168.0.254", "[Route]\n    Gateway=192.168.0.254"),
        (
            "up ip route add 10.0.0.0/8 via 192.168.0.9",
            "[Route]\n    Destination=10.0.0.0/8\n    Gateway=192.168.0.9",
        ),
        (
            "post-up /sbin/ip r replace default via 192.168.0.9 dev eth0 || true",
            "[Route]\n    Gateway=192.168.0.9",
        ),
        (
            "up ip -6 route add 2001:db8::/32 via fe80::1 table 7",
            "[Route]\n    Destination=2001:db8::/32\n    Gateway=fe80::1\n    Table=7",
        ),
        ("dns-nameservers 192.0.2.53 192.0.2.54", "[Network]\n    DNS=192.0.2.54"),
        ("dns-search example.net", "[Network]\n    Domains=example.net"),
        ("up route add -net 10.0.0.0/8 gw 192.168.0.9", ""),
        ("pre-up /usr/local/sbin/firewall", ""),
        ("up ip route add 10.0.0.0/33 via nowhere", ""),
        ("gateway fe80::1%eth0", ""),
    ],
)
@pytest.mark.parametrize("file", [INTERFACES, "etc/network/more/lan", "srv/lan"])
def test_what_ifupdown_gave_an_interface_is_named(tmp_path: Path, file: str, line: str, wanted: str) -> None:
    if file != INTERFACES:
        write(tmp_path, INTERFACES, "source more/*\nsource-directory /srv\nsource interfaces\n")
    write(
        tmp_path,
        file,
        f"auto eth0\niface eth0 inet static\n  address 192.168.0.1/24\n  {line}\niface eth9 inet dhcp\n",
    )
    said = notes(tmp_path)
    assert f"/{file}: {line}\n" in said
    assert said.count("these of ") == 1, "eth0's only"
    assert f"/{PLACE}" in said
    assert wanted in said
    assert ("as it seems" in said) == bool(wanted)
    assert "eth9" not in said
    assert any(note.startswith(f"/{file} configures eth0 too") for note in rival_notes(PAIR, tmp_path))


def test_a_line_that_continues_and_an_alias(tmp_path: Path) -> None:
    write(
        tmp_path,
        INTERFACES,
        "iface eth0:1 inet static\n  up ip route add 10.0.0.0/8 \\\n    via 192.168.0.9\n# up no\n",
    )
    assert "Gateway=192.168.0.9" in notes(tmp_path)
    assert "up no" not in notes(tmp_path)


def test_dhcp_gave_routes_too(tmp_path: Path) -> None:
    write(tmp_path, INTERFACES, "iface eth0 inet dhcp\n")
    assert "iface eth0 inet dhcp (its routes and name servers)" in notes(tmp_path)


def test_what_another_network_file_gave_is_named(tmp_path: Path) -> None:
    text = (
        "[Match]\nName=eth0\n[Network]\nDHCP=no\nDNS=192.0.2.53\nGateway = 192.168.0.254\n"
        "[Route]\nDestination=10.0.0.0/8\nGateway=192.168.0.9\n"
    )
    write(tmp_path, "etc/systemd/network/80-lan.network", text)
    said = notes(tmp_path)
    for line in (
        "DNS=192.0.2.53",
        "Gateway=192.168.0.254",
        "Destination=10.0.0.0/8\n    Gateway=192.168.0.9",
    ):
        assert f"]\n    {line}\n" in f"{said}\n", line


def test_what_the_kernel_has_is_named(tmp_path: Path) -> None:
    said = notes(
        tmp_path,
        HostRoute("eth0", "default", "192.168.0.254", None),
        HostRoute("eth0", "10.0.0.0/8", "192.168.0.9", "7"),
        HostRoute("eth9", "10.9.0.0/16", "192.168.9.9", None),
    )
    assert "the kernel has now: default via 192.168.0.254 dev eth0\n" in said
    assert "[Route]\n    Destination=10.0.0.0/8\n    Gateway=192.168.0.9\n    Table=7" in said
    assert "eth9" not in said


@pytest.mark.parametrize(
    "kept",
    [
        "[Route]\nGateway=192.168.0.254\n",
        "[Route]\nGateway = 192.168.0.254\nDestination=0.0.0.0/0\n",
        "[Network]\nGateway=192.168.0.254\nDNS=192.0.2.53\n",
    ],
)
def test_what_a_drop_in_has_is_not_lost(tmp_path: Path, kept: str) -> None:
    write(tmp_path, INTERFACES, "iface eth0 inet static\n  gateway 192.168.0.254\n")
    assert notes(tmp_path)
    write(tmp_path, PLACE, kept)
    assert notes(tmp_path, HostRoute("eth0", "default", "192.168.0.254", None)) == ""
    write(tmp_path, PLACE, kept.replace("254", "253"))
    assert notes(tmp_path)


def test_setup_says_it_before_it_asks(tmp_path: Path) -> None:
    write(tmp_path, INTERFACES, "iface eth0 inet static\n  gateway 192.168.0.254\n")
    said = install(tmp_path).stdout
    assert said.index("these of eth0 are not carried over") < said.index("wrote ")


def test_what_is_no_file_says_nothing(tmp_path: Path) -> None:
    write(
        tmp_path, INTERFACES, "source interfaces\nsource ../../../*\nsource-directory .\n" + "x" * 3_000_000
    )
    (tmp_path / "etc/network/interfaces.d/sub").mkdir(parents=True)
    assert notes(tmp_path) == ""


def test_interfaces_that_are_missing_or_in_no_zone() -> None:
    here = [
        HostLink("lo", True, (ip_interface("127.0.0.1/8"),)),
        HostLink("eth0", True, (ip_interface("192.168.0.1/24"),)),
        HostLink("eth2", True, ()),
        HostLink("eth3", True, (ip_interface("10.1.1.5/24"), ip_interface("2001:db8::5/64"))),
        HostLink("eth4", False, (ip_interface("10.2.2.5/24"),)),
        HostLink("eth5", True, ()),
    ]
    missing, unknown = host_warnings(PAIR, here, None)
    assert missing.startswith("eth1 of the pair file is not on this host")
    assert unknown.startswith("eth3 (10.1.1.5/24, 2001:db8::5/64) is in no zone")
    assert "ssh arriving there will be dropped" in unknown
    for session in (
        "192.0.2.7 5555 10.1.1.5 22",
        "2001:db8::9 5555 2001:db8::5 22",
        "::1 1 ::ffff:10.1.1.5 22",
    ):
        *_, locked_out = host_warnings(PAIR, here, session)
        assert locked_out.startswith("YOUR OWN SSH SESSION COMES IN OVER eth3")
    for session in ("192.0.2.7 5555 192.168.0.1 22", "nonsense", ""):
        assert "YOUR" not in "".join(host_warnings(PAIR, here, session))
