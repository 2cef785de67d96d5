# SPDX-License-Identifier: GPL-2.0-or-later
"""Only the other node speaks VRRP, BFD and replication to this one. Packets of others are dropped here,
under every policy, counted as `strangers`, and remembered for a while by interface and address.

VRRPv3 has no passwords: who may send is all there is. A client that sends our VRID with priority 255 from an
address of its own would otherwise take the role from both nodes for as long as it sends.

The input hook is early enough: a raw socket, keepalived's, gets a packet only behind it. It is also behind
reassembly, so a fragment is matched as part of its packet. AH, and any other header between IP and VRRP, is
not used here: keepalived's VRRPv3 sends none.

Over IPv6 VRRP comes from a link-local address. The rendered keepalived.conf gives each node one that both
know. A node whose keepalived.conf does not (it was made by hand, or before this) sends from one that only
that node knows; it is heard where its advertisements over IPv4 come from the same hardware address by the
same interface, as they do on every link with both.

Replication has no passwords either, and what leaves this node has its address: so only root sends it, also
to this node itself, where everything that arrives at lo is let in. Any user could otherwise put states of
their own making into the kernel of either node, and get in by them.

The sets own4 and own6 hold the addresses of both nodes, so that the table is the same on both. An address of
this node itself is no source of anything that arrives.
"""

from collections.abc import Iterator

from agent.model.pair import Interface, Pair, Tunnel
from agent.model.services import BFD_PORTS
from agent.rules.gate import AH, LINK_LOCAL_6, VRRP, VRRP_GROUP_4, VRRP_GROUP_6
from agent.rules.objects import TABLE, Chain, CounterObject, Object, Set, make_rule
from agent.rules.statements import (
    ACCEPT,
    DROP,
    IIFNAME,
    L4PROTO,
    NOTRACK,
    OIFNAME,
    Fib,
    Match,
    Meta,
    NamedCounter,
    NamedSet,
    OneOf,
    Payload,
    Value,
    concat,
    jump,
    one_of,
    update_set,
)
from agent.rules.values import interface_name, ip

SINGLE_HOP_BFD, MULTI_HOP_BFD = BFD_PORTS
STRANGERS = "strangers"
STRANGER_SETS = ("strangers4", "strangers6")
_KEPT_IN = dict(zip((4, 6), STRANGER_SETS, strict=True))
STRANGER_KEPT_S = 10
"""A stranger that has sent nothing for so long is forgotten."""
MAX_STRANGERS = 64
"""More at a time are dropped like them, but not remembered."""
_UNTOUCHED_BY_ROUTERS = 255
OWN_SOURCE = Match(Fib("type", ("saddr", "iif")), "local")
_HOPS = {4: Payload("ip", "ttl"), 6: Payload("ip6", "hoplimit")}
_NEXT_HEADER = {4: Payload("ip", "protocol"), 6: Payload("ip6", "nexthdr")}
_SPEAKERS = {4: NamedSet("own4"), 6: NamedSet("advertisers6")}
ADVERTISED = "advertised"
"""The interfaces by which the other node has lately advertised itself as primary."""
HARDWARE = "peer-hardware"
TUNNELS = "tunnels"
_HARDWARE_KEPT_S = 3600
_NOT_ROOT = Match(Meta("skuid"), 0, "!=")
_FROM_HARDWARE = concat(IIFNAME, Payload("ether", "saddr"))
_GROUP = {4: VRRP_GROUP_4, 6: VRRP_GROUP_6}


def peer(table: str, pair: Pair) -> tuple[Object, ...]:
    """For the head of the chain `input`: before management, connection tracking and the policy."""
    return (
        CounterObject(table, STRANGERS),
        *(
            Set(
                table,
                name,
                ("ifname", f"ipv{version}_addr", "inet_proto"),
                flags=("timeout",),
                timeout_s=STRANGER_KEPT_S,
                size=MAX_STRANGERS,
            )
            for version, name in _KEPT_IN.items()
        ),
        Set(table, "advertisers6", ("ifname", "ipv6_addr"), _advertisers(pair)),
        Set(
            table,
            ADVERTISED,
            ("ifname",),
            flags=("timeout",),
            timeout_s=advertised_s(pair),
            size=MAX_STRANGERS,
        ),
        Set(
            table,
            HARDWARE,
            ("ifname", "ether_addr"),
            flags=("timeout",),
            timeout_s=_HARDWARE_KEPT_S,
            size=MAX_STRANGERS,
        ),
        *(Chain(table, name) for name in (STRANGERS, "vrrp", "bfd", "replication")),
        make_rule(table, "input", Match(L4PROTO, OneOf((AH, VRRP))), jump("vrrp")),
        make_rule(
            table,
            "input",
            Match(Payload("udp", "dport"), OneOf((SINGLE_HOP_BFD, MULTI_HOP_BFD))),
            jump("bfd"),
        ),
        make_rule(table, "input", sync_port(pair), jump("replication")),
        *_tunnels(table, pair),
        *_vrrp(table),
        *_bfd(table),
        *_replication(table, pair),
        *_strangers(table),
    )


def advertised_s(pair: Pair) -> int:
    """How long an advertisement is remembered: so that two that follow each other leave no gap."""
    return 1 + 2 * pair.failover.advert_interval_ms // 1000


def _advertisers(pair: Pair) -> tuple[Value, ...]:
    """What VRRP over IPv6 may come from: the address that keepalived.conf gives each node for it, or an own
    one."""
    addresses = (
        (interface, address)
        for interface in pair.data_interfaces
        for name, own in interface.addresses
        for address in (pair.advertiser(name, interface), *(one.ip for one in own))
        if address is not None and address.version == 6
    )
    return tuple(concat(interface_name(interface.name), str(address)) for interface, address in addresses)


def sync_port(pair: Pair) -> Match:
    return Match(Payload("udp", "dport"), pair.sync.port)


def _vrrp(table: str) -> Iterator[Object]:
    """By multicast, or to an own address."""
    yield make_rule(table, "vrrp", OWN_SOURCE, jump(STRANGERS))
    for version in (4, 6):
        as_sent = (Match(_NEXT_HEADER[version], VRRP), Match(_HOPS[version], _UNTOUCHED_BY_ROUTERS))
        sender = (Match(concat(IIFNAME, Payload(ip(version), "saddr")), _SPEAKERS[version]), *as_sent)
        to_group = Match(Payload(ip(version), "daddr"), _GROUP[version])
        if version == 4:
            yield make_rule(table, "vrrp", *sender, to_group, update_set(HARDWARE, _FROM_HARDWARE))
        # apart from what accepts them: a rule ends where its set is full
        yield make_rule(table, "vrrp", *sender, update_set(ADVERTISED, IIFNAME))
        yield make_rule(table, "vrrp", *sender, to_group, ACCEPT)
        to_own = Match(concat(IIFNAME, Payload(ip(version), "daddr")), _SPEAKERS[version])
        yield make_rule(table, "vrrp", *sender, to_own, ACCEPT)
        if version == 6:
            link_local = Match(Payload("ip6", "saddr"), LINK_LOCAL_6)
            known = Match(_FROM_HARDWARE, NamedSet(HARDWARE))
            from_peer = (link_local, *as_sent, to_group, known)
            yield make_rule(table, "vrrp", *from_peer, update_set(ADVERTISED, IIFNAME))
            yield make_rule(table, "vrrp", *from_peer, ACCEPT)
        yield make_rule(table, "vrrp", to_group, jump(STRANGERS))
    yield make_rule(table, "vrrp", Match(L4PROTO, VRRP), jump(STRANGERS))
    # IPv4 only: of IPv6 the kernel and nft see the protocol behind AH
    yield make_rule(table, "vrrp", Match(Payload("ah", "nexthdr"), VRRP), jump(STRANGERS))


def untracked_vrrp(base: str) -> Iterator[Object]:
    """VRRP for this node. What is on its way to elsewhere is tracked as all else is: it may be translated,
    and has answers."""
    yield Chain(TABLE, "vrrp-in")
    yield make_rule(TABLE, base, Match(L4PROTO, VRRP), Match(IIFNAME, NamedSet("data")), jump("vrrp-in"))
    # not later: routing drops it silently, and the host that pretends to be this node stays unknown
    yield make_rule(TABLE, "vrrp-in", OWN_SOURCE, jump(STRANGERS))
    for version in (4, 6):
        target = Payload(ip(version), "daddr")
        yield make_rule(TABLE, "vrrp-in", Match(target, _GROUP[version]), NOTRACK)
        yield make_rule(TABLE, "vrrp-in", Match(concat(IIFNAME, target), _SPEAKERS[version]), NOTRACK)


def _bfd(table: str) -> Iterator[Object]:
    yield make_rule(table, "bfd", OWN_SOURCE, jump(STRANGERS))
    for version in (4, 6):
        near, far = (Match(Payload("udp", "dport"), port) for port in (SINGLE_HOP_BFD, MULTI_HOP_BFD))
        direct = Match(_HOPS[version], _UNTOUCHED_BY_ROUTERS)
        yield make_rule(table, "bfd", _from_a_node(version), near, direct, ACCEPT)
        yield make_rule(table, "bfd", _from_a_node(version), far, ACCEPT)
    yield make_rule(table, "bfd", jump(STRANGERS))


def _from_a_node(version: int) -> Match:
    return Match(concat(IIFNAME, Payload(ip(version), "saddr")), NamedSet(f"own{version}"))


def _replication(table: str, pair: Pair) -> Iterator[Object]:
    """conntrackd listens on the sync addresses alone; to another address the port may be anything."""
    yield make_rule(table, "replication", OWN_SOURCE, jump(STRANGERS))
    for link in pair.replication_links:
        here = Match(IIFNAME, interface_name(link.name))
        for version, of_nodes in _addresses_of(link):
            sender = Match(Payload(ip(version), "saddr"), of_nodes)
            yield make_rule(table, "replication", here, sender, ACCEPT)
            yield make_rule(
                table, "replication", Match(Payload(ip(version), "daddr"), of_nodes), jump(STRANGERS)
            )
        yield make_rule(table, "replication", here, jump(STRANGERS))
    for tunnel in pair.tunnels:
        wire = Match(IIFNAME, interface_name(tunnel.wire.name))
        yield make_rule(table, "replication", wire, jump(STRANGERS), comment="past the tunnel")


def _tunnels(table: str, pair: Pair) -> Iterator[Object]:
    """WireGuard knows the other node by its key. The rules keep the rest of the network from making it work
    for nothing, and a copy of an old packet from leading it to another address. Who tries its port from
    elsewhere, as all the Internet does, is no stranger who speaks as the other node."""
    if not pair.tunnels:
        return
    yield Chain(table, TUNNELS)
    for tunnel in pair.tunnels:
        yield make_rule(table, "input", _tunnel_port(tunnel), jump(TUNNELS))
    yield make_rule(table, TUNNELS, OWN_SOURCE, NamedCounter("input"), DROP)
    for tunnel in pair.tunnels:
        wire = Match(IIFNAME, interface_name(tunnel.wire.name))
        for version, of_nodes in _addresses_of(tunnel.wire):
            sender = Match(Payload(ip(version), "saddr"), of_nodes)
            yield make_rule(table, TUNNELS, _tunnel_port(tunnel), wire, sender, ACCEPT)
        yield make_rule(table, TUNNELS, wire, jump(STRANGERS))
    yield make_rule(table, TUNNELS, NamedCounter("input"), DROP)


def untracked_tunnels(pair: Pair) -> Iterator[Object]:
    for tunnel in pair.tunnels:
        name = interface_name(tunnel.wire.name)
        yield make_rule(TABLE, "raw-in", _tunnel_port(tunnel), Match(IIFNAME, name), NOTRACK)
        yield make_rule(TABLE, "raw-out", _tunnel_port(tunnel), Match(OIFNAME, name), NOTRACK)


def _tunnel_port(tunnel: Tunnel) -> Match:
    """Of both ends."""
    return Match(Payload("udp", "dport"), tunnel.port)


def own_replication(table: str, pair: Pair) -> Iterator[Object]:
    """For the chain `output`: of this node's processes only those of root, as conntrackd is, send it."""
    for version, of_nodes in (one for link in pair.replication_links for one in _addresses_of(link)):
        sent = (sync_port(pair), Match(Payload(ip(version), "daddr"), of_nodes), _NOT_ROOT)
        known = concat(OIFNAME, Payload(ip(version), "saddr"), L4PROTO)
        yield make_rule(table, "output", *sent, update_set(_KEPT_IN[version], known))
        # apart from what remembers it: a rule ends where its set is full
        yield make_rule(table, "output", *sent, NamedCounter(STRANGERS), DROP, comment="not sent by root")


def _addresses_of(link: Interface) -> Iterator[tuple[int, Value]]:
    """Those of both nodes, by the IP versions that there are."""
    for version in (4, 6):
        addresses: list[Value] = [
            str(address.ip) for _, own in link.addresses for address in own if address.version == version
        ]
        if addresses:
            yield version, one_of(addresses)


def _strangers(table: str) -> Iterator[Object]:
    """A set that is full ends the rule and nothing more: the last one drops all the same."""
    for version, name in _KEPT_IN.items():
        yield make_rule(
            table, STRANGERS, update_set(name, concat(IIFNAME, Payload(ip(version), "saddr"), L4PROTO))
        )
    yield make_rule(table, STRANGERS, NamedCounter(STRANGERS), DROP, comment="not from the other node")
