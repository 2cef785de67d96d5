# SPDX-License-Identifier: GPL-2.0-or-later
"""IP addresses of others, people and nodes. Python takes `fe80::1%eth0` for one: an address on an interface
of the machine that has written it. No rule, no set and no file of ours has a place for that interface."""

from ipaddress import IPv4Address, IPv6Address, ip_address

NAMES_AN_INTERFACE = "names an interface behind %; write the address alone"
_SHOWN = 60


class ScopedAddressError(ValueError):
    """In one sentence, whatever the text was."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:_SHOWN]!a} {NAMES_AN_INTERFACE}")


def is_scoped(text: str) -> bool:
    plain, percent, _ = text.partition("%")
    return bool(percent) and ":" in plain


def read_plain_address(text: str) -> IPv4Address | IPv6Address:
    """ValueError for what is none, ScopedAddressError for one that names an interface."""
    if is_scoped(text):
        raise ScopedAddressError(text)
    return ip_address(text)
