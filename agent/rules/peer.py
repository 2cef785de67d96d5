# SPDX-License-Identifier: GPL-2.0-or-later
"""Only the other node speaks VRRP, BFD and replication to this one. Everybody else is dropped here, whatever
the policy says, counted as `strangers`, and remembered for a while by interface and address.

VRRPv3 has no passwords: who may send is all there is. A client that sends our VRID with priority 255 from an
address of its own would otherwise take the role from both nodes for as long as it sends.

The input hook is early enough: a raw socket, keepalived's, gets a packet only behind it. It is also behind
reassembly, so a fragment is judged as part of its packet. AH, and any other header between IP and VRRP, is
nobody's here: keepalived's VRRPv3 sends none.

Over IPv6 VRRP comes from a link-local address. The rendered keepalived.conf gives each node one that both
know. A node whose keepalived.conf does not (it was made by hand, or before this) sends from one that only
that node knows; it is heard where its advertisements over IPv4 come from the same hardware address by the
same interface, as they do on every link with both.

Replication has no passwords either, and what leaves this node has its address: so only root sends it, also
to this node itself, where everything that arrives at lo is let in. Any user could otherwise put states of
his own making into the kernel of either node, and with them let himself in.

The sets own4 and own6 hold the addresses of both nodes, so that the table is the same on both. An address of
this node itself is no source of anything that arrives.
"""

from collections.abc import Iterator

from agent.model.pair import Pair
from agent.model.services import BFD_PORTS
from agent.rules.gate import AH, LINK_LOCAL_6, VRRP, VRRP_GROUP_4, VRRP_GROUP_6
from agent.rules.nft_json import (
    ACCEPT,
    DROP,
    IIFNAME,
    L4PROTO,
    NOTRACK,
    OIFNAME,
    TABLE,
    Command,
    Commands,
    Expr,
    Json,
    add_chain,
    add_counter,
    add_rule,
    add_set,
    concat,
    interface_name,
    ip,
    jump,
    match,
    named_counter,
    one_of,
    payload,
    update_set,
)

SINGLE_HOP_BFD, MULTI_HOP_BFD = BFD_PORTS
STRANGERS = "strangers"
STRANGER_SETS = ("strangers4", "strangers6")
_KEPT_IN = dict(zip((4, 6), STRANGER_SETS, strict=True))
STRANGER_KEPT_S = 10
"""A stranger that has sent nothing for so long is forgotten."""
MAX_STRANGERS = 64
"""More at a time are dropped like them, but not remembered."""
_UNTOUCHED_BY_ROUTERS = 255
_OWN_SOURCE = match({"fib": {"result": "type", "flags": ["saddr", "iif"]}}, "local")
_HOPS = {4: payload("ip", "ttl"), 6: payload("ip6", "hoplimit")}
_NEXT_HEADER = {4: payload("ip", "protocol"), 6: payload("ip6", "nexthdr")}
_SPEAKERS = {4: "@own4", 6: "@advertisers6"}
ADVERTISED = "advertised"
"""The interfaces by which the other node has lately advertised itself as primary."""
HARDWARE = "peer-hardware"
_HARDWARE_KEPT_S = 3600
_NOT_ROOT = match({"meta": {"key": "skuid"}}, 0, "!=")
_FROM_HARDWARE = concat(IIFNAME, payload("ether", "saddr"))
_GROUP = {4: VRRP_GROUP_4, 6: VRRP_GROUP_6}


def peer(table: str, pair: Pair) -> Commands:
    """For the head of the chain `input`: before management, connection tracking and the policy."""
    return (
        add_counter(table, STRANGERS),
        *(
            add_set(
                table,
                name,
                ["ifname", f"ipv{version}_addr", "inet_proto"],
                flags=["timeout"],
                timeout_s=STRANGER_KEPT_S,
                size=MAX_STRANGERS,
            )
            for version, name in _KEPT_IN.items()
        ),
        add_set(table, "advertisers6", ["ifname", "ipv6_addr"], _advertisers(pair)),
        add_set(
            table,
            ADVERTISED,
            "ifname",
            flags=["timeout"],
            timeout_s=advertised_s(pair),
            size=MAX_STRANGERS,
        ),
        add_set(
            table,
            HARDWARE,
            ["ifname", "ether_addr"],
            flags=["timeout"],
            timeout_s=_HARDWARE_KEPT_S,
            size=MAX_STRANGERS,
        ),
        *(add_chain(table, name) for name in (STRANGERS, "vrrp", "bfd", "replication")),
        add_rule(table, "input", match(L4PROTO, {"set": [AH, VRRP]}), jump("vrrp")),
        add_rule(
            table,
            "input",
            match(payload("udp", "dport"), {"set": [SINGLE_HOP_BFD, MULTI_HOP_BFD]}),
            jump("bfd"),
        ),
        add_rule(table, "input", sync_port(pair), jump("replication")),
        *_vrrp(table),
        *_bfd(table),
        *_replication(table, pair),
        *_strangers(table),
    )


def advertised_s(pair: Pair) -> int:
    """How long an advertisement is remembered: so that two that follow each other leave no gap."""
    return 1 + 2 * pair.failover.advert_interval_ms // 1000


def _advertisers(pair: Pair) -> list[Json]:
    """What VRRP over IPv6 may come from: the address that keepalived.conf gives each node for it, or an own
    one."""
    addresses = (
        (interface, address)
        for interface in pair.data_interfaces
        for name, own in interface.addresses
        for address in (pair.advertiser(name, interface), *(one.ip for one in own))
        if address is not None and address.version == 6
    )
    return [concat(interface_name(interface.name), str(address)) for interface, address in addresses]


def sync_port(pair: Pair) -> Expr:
    return match(payload("udp", "dport"), pair.sync.port)


def _vrrp(table: str) -> Iterator[Command]:
    """By multicast, or to an own address."""
    yield add_rule(table, "vrrp", _OWN_SOURCE, jump(STRANGERS))
    for version in (4, 6):
        as_sent = (match(_NEXT_HEADER[version], VRRP), match(_HOPS[version], _UNTOUCHED_BY_ROUTERS))
        sender = (match(concat(IIFNAME, payload(ip(version), "saddr")), _SPEAKERS[version]), *as_sent)
        to_group = match(payload(ip(version), "daddr"), _GROUP[version])
        if version == 4:
            yield add_rule(table, "vrrp", *sender, to_group, update_set(HARDWARE, _FROM_HARDWARE))
        # apart from what accepts them: a rule ends where its set is full
        yield add_rule(table, "vrrp", *sender, update_set(ADVERTISED, IIFNAME))
        yield add_rule(table, "vrrp", *sender, to_group, ACCEPT)
        to_own = match(concat(IIFNAME, payload(ip(version), "daddr")), _SPEAKERS[version])
        yield add_rule(table, "vrrp", *sender, to_own, ACCEPT)
        if version == 6:
            link_local = match(payload("ip6", "saddr"), LINK_LOCAL_6)
            known = match(_FROM_HARDWARE, f"@{HARDWARE}")
            from_peer = (link_local, *as_sent, to_group, known)
            yield add_rule(table, "vrrp", *from_peer, update_set(ADVERTISED, IIFNAME))
            yield add_rule(table, "vrrp", *from_peer, ACCEPT)
        yield add_rule(table, "vrrp", to_group, jump(STRANGERS))
    yield add_rule(table, "vrrp", match(L4PROTO, VRRP), jump(STRANGERS))
    # IPv4 only: of IPv6 the kernel and nft see the protocol behind AH
    yield add_rule(table, "vrrp", match(payload("ah", "nexthdr"), VRRP), jump(STRANGERS))


def untracked_vrrp(base: str) -> Iterator[Command]:
    """VRRP for this node. What is on its way to elsewhere is tracked as all else is: it may be translated,
    and has answers."""
    yield add_chain(TABLE, "vrrp-in")
    yield add_rule(TABLE, base, match(L4PROTO, VRRP), match(IIFNAME, "@data"), jump("vrrp-in"))
    # not later: routing drops it without a word, and nobody would know who pretends to be this node
    yield add_rule(TABLE, "vrrp-in", _OWN_SOURCE, jump(STRANGERS))
    for version in (4, 6):
        target = payload(ip(version), "daddr")
        yield add_rule(TABLE, "vrrp-in", match(target, _GROUP[version]), NOTRACK)
        yield add_rule(TABLE, "vrrp-in", match(concat(IIFNAME, target), _SPEAKERS[version]), NOTRACK)


def _bfd(table: str) -> Iterator[Command]:
    yield add_rule(table, "bfd", _OWN_SOURCE, jump(STRANGERS))
    for version in (4, 6):
        near, far = (match(payload("udp", "dport"), port) for port in (SINGLE_HOP_BFD, MULTI_HOP_BFD))
        direct = match(_HOPS[version], _UNTOUCHED_BY_ROUTERS)
        yield add_rule(table, "bfd", _from_a_node(version), near, direct, ACCEPT)
        yield add_rule(table, "bfd", _from_a_node(version), far, ACCEPT)
    yield add_rule(table, "bfd", jump(STRANGERS))


def _from_a_node(version: int) -> Expr:
    return match(concat(IIFNAME, payload(ip(version), "saddr")), f"@own{version}")


def _replication(table: str, pair: Pair) -> Iterator[Command]:
    """conntrackd listens on the sync addresses alone; to another address the port may be anything."""
    link = interface_name(pair.sync_interface.name)
    yield add_rule(table, "replication", _OWN_SOURCE, jump(STRANGERS))
    for version, of_nodes in _sync_addresses(pair):
        sender = match(payload(ip(version), "saddr"), of_nodes)
        yield add_rule(table, "replication", match(IIFNAME, link), sender, ACCEPT)
        yield add_rule(table, "replication", match(payload(ip(version), "daddr"), of_nodes), jump(STRANGERS))
    yield add_rule(table, "replication", match(IIFNAME, link), jump(STRANGERS))


def own_replication(table: str, pair: Pair) -> Iterator[Command]:
    """For the chain `output`: of this node's processes only those of root, as conntrackd is, send it."""
    for version, of_nodes in _sync_addresses(pair):
        sent = (sync_port(pair), match(payload(ip(version), "daddr"), of_nodes), _NOT_ROOT)
        known = concat(OIFNAME, payload(ip(version), "saddr"), L4PROTO)
        yield add_rule(table, "output", *sent, update_set(_KEPT_IN[version], known))
        # apart from what remembers it: a rule ends where its set is full
        yield add_rule(table, "output", *sent, named_counter(STRANGERS), DROP, comment="not sent by root")


def _sync_addresses(pair: Pair) -> Iterator[tuple[int, Json]]:
    """Those of both nodes, by the IP versions that there are."""
    for version in (4, 6):
        addresses: list[Json] = [
            str(address.ip)
            for _, own in pair.sync_interface.addresses
            for address in own
            if address.version == version
        ]
        if addresses:
            yield version, one_of(addresses)


def _strangers(table: str) -> Iterator[Command]:
    """A set that is full ends the rule and nothing more: the last one drops all the same."""
    for version, name in _KEPT_IN.items():
        yield add_rule(
            table, STRANGERS, update_set(name, concat(IIFNAME, payload(ip(version), "saddr"), L4PROTO))
        )
    yield add_rule(table, STRANGERS, named_counter(STRANGERS), DROP, comment="not from the other node")
