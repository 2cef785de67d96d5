# SPDX-License-Identifier: GPL-2.0-or-later
"""The typed pair: small questions that others build on."""

from ipaddress import ip_interface

from agent.model.pair import Interface


def test_networks_are_listed_once() -> None:
    interface = Interface(
        name="eth0",
        zone="server",
        addresses=(("fw-1", (ip_interface("192.168.0.1/24"),)), ("fw-2", (ip_interface("192.168.0.2/24"),))),
        vips=(ip_interface("192.168.0.100/24"),),
        vrid=62,
    )
    assert [str(network) for network in interface.networks] == ["192.168.0.0/24"]
    assert interface.own("fw-2") == (ip_interface("192.168.0.2/24"),)
    assert interface.own("nobody") == ()
