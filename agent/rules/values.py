# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pair file names, as values that rules compare with.

Interface names and comments come from the pair file, and libnftables gives two characters a meaning even
inside JSON strings: a leading `@` names a set, a trailing `*` is a wildcard. `interface_name()` and
`comment_text()` let neither pass.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network

from agent.errors import ConfigError, Problem
from agent.model.pair import IPNetwork, PortRange
from agent.rules.statements import NFPROTO, Field, Masked, Match, Payload, Prefix, Range, Value, one_of

_HIGHEST = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
# nft itself takes 128 bytes, the closing zero among them.
COMMENT_LIMIT = 120


def ports(ranges: Sequence[PortRange]) -> Value:
    """What matches these ports. Overlaps are merged: nft refuses them as conflicting intervals."""
    merged: list[PortRange] = []
    for port in sorted(ranges, key=lambda every: (every.first, every.last)):
        if merged and port.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, port.last))
        else:
            merged.append(port)
    return one_of(
        [port.first if port.first == port.last else Range(port.first, port.last) for port in merged]
    )


def from_networks(networks: Iterable[IPNetwork], version: int, field: str = "saddr") -> Match | None:
    """A match of the source address, or of another field, in the networks of one IP version; None when there
    are none."""
    found = intervals(networks, version)
    if not found:
        return None
    if found == [(0, _HIGHEST[version])]:
        return of_version(version)
    return Match(Payload(ip(version), field), one_of(elements(found, version)))


def of_version(version: int) -> Match:
    return Match(NFPROTO, "ipv4" if version == 4 else "ipv6")


def ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def intervals(networks: Iterable[IPNetwork], version: int) -> list[tuple[int, int]]:
    """What the networks of one IP version cover, in order, without overlaps and neighbors.

    (`ipaddress.collapse_addresses` takes a minute for a hundred thousand.)
    """
    # not num_addresses, which makes an address object to find out
    starts = (
        (int(one.network_address), 1 << one.max_prefixlen - one.prefixlen)
        for one in networks
        if one.version == version
    )
    merged: list[tuple[int, int]] = []
    for first, size in sorted(starts):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], first + size - 1))
        else:
            merged.append((first, first + size - 1))
    return merged


def elements(found: Iterable[tuple[int, int]], version: int) -> list[Value]:
    """Intervals as the elements of a set: addresses, prefixes where they are some, else ranges."""
    return [_element(first, last, version) for first, last in found]


def _element(first: int, last: int, version: int) -> Value:
    kind = IPv4Address if version == 4 else IPv6Address
    if first == last:
        return str(kind(first))
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return Prefix(str(kind(first)), kind(0).max_prefixlen + 1 - size.bit_length())
    return Range(str(kind(first)), str(kind(last)))


def network_of(network: IPNetwork) -> Value:
    first = int(network.network_address)
    return _element(first, first + network.num_addresses - 1, network.version)


def interface_name(name: str) -> str:
    """`name`, or ConfigError if nft or the kernel would read more in it than a name."""
    if re.fullmatch(r"[A-Za-z0-9._-]{1,15}", name) is None:
        message = f"{name!r} is not an interface name; use 1 to 15 of the characters A-Z a-z 0-9 . _ -"
        raise ConfigError((Problem("interfaces", message),))
    return name


def comment_text(text: str) -> str:
    """`text` fit for a rule's comment; what could break a listing fed back to `nft -f` becomes `?`."""
    return re.sub(r"[^A-Za-z0-9 .,:;_+/()@-]", "?", text)[:COMMENT_LIMIT]


def networks_of_source(version: int, length: int) -> Field:
    """The source address, cut to a network of this length."""
    address = Payload(ip(version), "saddr")
    whole = ip_network(f"{'0.0.0.0' if version == 4 else '::'}/{length}")
    return address if length == whole.max_prefixlen else Masked(address, str(whole.netmask))
