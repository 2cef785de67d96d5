# SPDX-License-Identifier: GPL-2.0-or-later
"""What is typed behind the commands of both programs."""

import argparse
from ipaddress import ip_address

import pytest

from agent.arguments import parse_address


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "fe80::1"])
def test_an_address_is_taken(text: str) -> None:
    assert parse_address(text) == ip_address(text)


@pytest.mark.parametrize("text", ["", "192.0.2", "2001:db8::1/64", "50%"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not an IP address"):
        parse_address(text)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "2001:db8::1%eth0"])
def test_an_address_on_an_interface_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        parse_address(text)
    assert str(refused.value) == f"'{text}' names an interface behind %; write the address alone"
