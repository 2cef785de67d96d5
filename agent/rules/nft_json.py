# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of libnftables JSON (libnftables-json(5)) that our rules are made of. Values in, values out.

Interface names and comments come from the pair file, and libnftables gives two characters a meaning even
inside JSON strings: a leading `@` names a set, a trailing `*` is a wildcard. `interface_name()` and
`comment_text()` let neither pass.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TypeAlias

from agent.errors import ConfigError, Problem
from agent.model.pair import IPNetwork, PortRange

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"
Expr: TypeAlias = Mapping[str, Json]
Command: TypeAlias = Mapping[str, Json]
Commands: TypeAlias = tuple[Command, ...]

FAMILY = "inet"
TABLE = "hafw"
GATE_TABLE = "hafw-gate"
TABLES = (TABLE, GATE_TABLE)
"""All that is ours. No two things of one kind have the same name, whichever table they are in."""

ACCEPT: Expr = {"accept": None}
DROP: Expr = {"drop": None}
RETURN: Expr = {"return": None}
NOTRACK: Expr = {"notrack": None}
COUNTER: Expr = {"counter": None}
IIFNAME: Expr = {"meta": {"key": "iifname"}}
OIFNAME: Expr = {"meta": {"key": "oifname"}}
L4PROTO: Expr = {"meta": {"key": "l4proto"}}
NFPROTO: Expr = {"meta": {"key": "nfproto"}}
CT_STATE: Expr = {"ct": {"key": "state"}}

_HIGHEST = {4: (1 << 32) - 1, 6: (1 << 128) - 1}
# nft itself takes 128 bytes, the closing zero among them.
COMMENT_LIMIT = 120


def additions(commands: Iterable[Command]) -> Iterator[tuple[str, Expr]]:
    """What `commands` add, in their order: the kind of each thing, and what it is."""
    for command in commands:
        added = command.get("add")
        if isinstance(added, Mapping):
            ((kind, body),) = added.items()
            if isinstance(body, Mapping):
                yield kind, body


def add_table(name: str) -> Command:
    return {"add": {"table": {"family": FAMILY, "name": name}}}


def create_table(name: str) -> Command:
    """Fails where it is there."""
    return {"create": {"table": {"family": FAMILY, "name": name}}}


def delete_table(name: str) -> Command:
    return {"delete": {"table": {"family": FAMILY, "name": name}}}


def add_chain(table: str, name: str) -> Command:
    return {"add": {"chain": {"family": FAMILY, "table": table, "name": name}}}


def create_chain(table: str, name: str) -> Command:
    """Fails where it is there."""
    return {"create": {"chain": {"family": FAMILY, "table": table, "name": name}}}


def add_base_chain(
    table: str, name: str, hook: str, priority: int, policy: str = "accept", kind: str = "filter"
) -> Command:
    chain: Expr = {"family": FAMILY, "table": table, "name": name, "type": kind, "hook": hook}
    return {"add": {"chain": {**chain, "prio": priority, "policy": policy}}}


def flush_chain(table: str, name: str) -> Command:
    return {"flush": {"chain": {"family": FAMILY, "table": table, "name": name}}}


def delete_chain(table: str, name: str) -> Command:
    """With its rules."""
    return {"delete": {"chain": {"family": FAMILY, "table": table, "name": name}}}


def add_counter(table: str, name: str) -> Command:
    return {"add": {"counter": {"family": FAMILY, "table": table, "name": name}}}


def add_helper(table: str, name: str, helper: str, protocol: str) -> Command:
    kind: Expr = {"type": helper, "protocol": protocol, "l3proto": FAMILY}
    return {"add": {"ct helper": {"family": FAMILY, "table": table, "name": name, **kind}}}


def add_set(
    table: str,
    name: str,
    kind: Json,
    elements: Sequence[Json] = (),
    *,
    flags: Sequence[str] = (),
    timeout_s: int | None = None,
    size: int | None = None,
) -> Command:
    body: Expr = {"family": FAMILY, "table": table, "name": name, "type": kind}
    more: dict[str, Json] = {"flags": flags, "timeout": timeout_s, "size": size, "elem": elements}
    return {"add": {"set": {**body, **{key: value for key, value in more.items() if value}}}}


def add_rule(table: str, chain: str, *expressions: Expr, comment: str | None = None) -> Command:
    rule: Expr = {"family": FAMILY, "table": table, "chain": chain, "expr": list(expressions)}
    return {"add": {"rule": {**rule, "comment": comment_text(comment)} if comment else rule}}


def match(left: Json, right: Json, operator: str = "==") -> Expr:
    return {"match": {"op": operator, "left": left, "right": right}}


def in_state(*states: str) -> Expr:
    """A match of the state of the packet's connection: any of `states`."""
    # several are a list, not a set: tested as bits, which needs no look into a set
    return match(CT_STATE, states[0] if len(states) == 1 else states, "in")


def payload(protocol: str, field: str) -> Expr:
    return {"payload": {"protocol": protocol, "field": field}}


def original(field: str) -> Expr:
    """A field of the connection's first packet as it came in, before anything was translated.

    (nft 1.0.6 prints ports there right only alone or as a range, not in a set.)
    """
    return {"ct": {"key": field, "dir": "original"}}


def concat(*parts: Json) -> Expr:
    return {"concat": list(parts)}


def jump(chain: str) -> Expr:
    return {"jump": {"target": chain}}


def named_counter(name: str) -> Expr:
    return {"counter": name}


def limit(count: int, period: str, burst: int, *, over: bool = False) -> Expr:
    """Matches as long as there are at most so many packets a period, or whenever there are more."""
    rate: Expr = {"rate": count, "burst": burst, "per": period}
    return {"limit": {**rate, "inv": True} if over else rate}


def more_connections(most: int) -> Expr:
    return {"ct count": {"val": most, "inv": True}}


def networks_of_source(version: int, length: int) -> Expr:
    """The source address, cut to a network of this length."""
    address = payload(ip(version), "saddr")
    whole = ip_network(f"{'0.0.0.0' if version == 4 else '::'}/{length}")
    return address if length == whole.max_prefixlen else {"&": [address, str(whole.netmask)]}


def once_a_source(source: Expr, name: str, statement: Expr, operation: str) -> Expr:
    """`statement`, counted apart for each `source`, in the set `name`."""
    return {"set": {"op": operation, "elem": source, "set": f"@{name}", "stmt": [statement]}}


def update_set(name: str, element: Json) -> Expr:
    """Puts the packet's `element` into the set, or renews its time there."""
    return {"set": {"op": "update", "elem": element, "set": f"@{name}"}}


def log(prefix: str) -> Expr:
    return {"log": {"prefix": comment_text(prefix), "level": "info"}}


def translate(kind: str, version: int, addr: Json, port: int | None = None, *flags: str) -> Expr:
    """`kind` is snat or dnat."""
    body: dict[str, Json] = {"family": ip(version), "addr": addr}
    body |= {"port": port} if port else {}
    return {kind: {**body, "flags": flags} if flags else body}


def verdict_map(key: Json, verdicts: Iterable[tuple[Json, Expr]]) -> Expr:
    return {"vmap": {"key": key, "data": {"set": [[value, verdict] for value, verdict in verdicts]}}}


def one_of(values: Sequence[Json]) -> Json:
    """A right-hand side that matches any of `values` (at least one)."""
    return values[0] if len(values) == 1 else {"set": values}


def ports(ranges: Sequence[PortRange]) -> Json:
    """A right-hand side for ports. Overlaps are merged: nft refuses them as conflicting intervals."""
    merged: list[PortRange] = []
    for port in sorted(ranges, key=lambda every: (every.first, every.last)):
        if merged and port.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, port.last))
        else:
            merged.append(port)
    return one_of(
        [port.first if port.first == port.last else {"range": [port.first, port.last]} for port in merged]
    )


def from_networks(networks: Iterable[IPNetwork], version: int, field: str = "saddr") -> Expr | None:
    """A match of the source address, or of another field, in the networks of one IP version; None when there
    are none."""
    found = intervals(networks, version)
    if not found:
        return None
    if found == [(0, _HIGHEST[version])]:
        return of_version(version)
    return match(payload(ip(version), field), one_of(elements(found, version)))


def of_version(version: int) -> Expr:
    return match(NFPROTO, "ipv4" if version == 4 else "ipv6")


def ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def intervals(networks: Iterable[IPNetwork], version: int) -> list[tuple[int, int]]:
    """What the networks of one IP version cover, in order, without overlaps and neighbours.

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


def elements(found: Iterable[tuple[int, int]], version: int) -> list[Json]:
    """Intervals as the elements of a set: addresses, prefixes where they are some, else ranges."""
    return [_element(first, last, version) for first, last in found]


def _element(first: int, last: int, version: int) -> Json:
    kind = IPv4Address if version == 4 else IPv6Address
    if first == last:
        return str(kind(first))
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return {"prefix": {"addr": str(kind(first)), "len": kind(0).max_prefixlen + 1 - size.bit_length()}}
    return {"range": [str(kind(first)), str(kind(last))]}


def network_of(network: IPNetwork) -> Json:
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
