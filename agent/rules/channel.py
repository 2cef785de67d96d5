# SPDX-License-Identifier: GPL-2.0-or-later
"""The agents talk to each other over TCP, by every link of the pair. Only the other node gets as far as
their program, by its own address of that link, and no faster than it may have to connect again.

Nothing of it is tracked: it has to work where the conntrack table is full, and it is no state of the pair.
So the answers to what this node has begun are known by their port, and by not being an opening: a host that
pretends to be the other node can open nothing with them.

TLS tells who it really is. The rules keep the rest of the network from making the program work for nothing.
"""

from collections.abc import Iterator

from agent.model.pair import Interface, Pair
from agent.rules.forward import NOT_AN_OPENING, TCP_FLAGS
from agent.rules.objects import TABLE, Chain, Object, make_rule
from agent.rules.peer import OWN_SOURCE
from agent.rules.statements import (
    ACCEPT,
    DROP,
    IIFNAME,
    NOTRACK,
    OIFNAME,
    Limit,
    Match,
    NamedCounter,
    OneOf,
    Payload,
    Value,
    concat,
    jump,
    one_of,
)
from agent.rules.values import interface_name, ip

CHANNEL = "channel"
OPENINGS = Limit(10, "second", 10, over=True)
"""On each link, where the other node tries twice a second."""
_UNPRIVILEGED = Match(Payload("tcp", "dport"), 1024, ">=")
"""What this node's own connections to the other one begin at."""
_OPENING = Match(TCP_FLAGS, "syn")


def channel(table: str, pair: Pair) -> Iterator[Object]:
    """For the head of the chain `input`, as peer(): before management, tracking and the policy."""
    yield Chain(table, CHANNEL)
    yield make_rule(table, "input", _port(pair, "dport"), jump(CHANNEL))
    yield make_rule(table, "input", _port(pair, "sport"), NOT_AN_OPENING, _UNPRIVILEGED, jump(CHANNEL))
    yield make_rule(table, CHANNEL, OWN_SOURCE, NamedCounter("input"), DROP)
    for interface in _links(pair):
        for version in (4, 6):
            ends = [
                str(address.ip)
                for _, own in interface.addresses
                for address in own
                if address.version == version
            ]
            if ends:
                here = Match(IIFNAME, interface_name(interface.name))
                known = Match(Payload(ip(version), "saddr"), one_of(ends))
                # a host that pretends to be the other node takes nothing of another link's share
                yield make_rule(table, CHANNEL, here, known, _OPENING, OPENINGS, NamedCounter("input"), DROP)
                yield make_rule(table, CHANNEL, here, known, ACCEPT)
    # an answer may be one to another program, which has chosen that port
    yield make_rule(table, CHANNEL, _port(pair, "dport"), NamedCounter("input"), DROP)


def untracked_channel(pair: Pair) -> Iterator[Object]:
    """Between the own addresses of both nodes alone: else these ports belong to whoever uses them."""
    ways = (("raw-in", IIFNAME), ("raw-out", OIFNAME))
    for base, interface in ways:
        chain = f"{CHANNEL}-{base.removeprefix('raw-')}"
        yield Chain(TABLE, chain)
        for field in ("dport", "sport"):
            yield make_rule(TABLE, base, _port(pair, field), jump(chain))
        for version in (4, 6):
            if ends := _ends(pair, version):
                source = Match(concat(interface, Payload(ip(version), "saddr")), OneOf(ends))
                target = Match(concat(interface, Payload(ip(version), "daddr")), OneOf(ends))
                yield make_rule(TABLE, chain, source, target, NOTRACK)


def _port(pair: Pair, field: str) -> Match:
    return Match(Payload("tcp", field), pair.sync.channel_port)


def _links(pair: Pair) -> tuple[Interface, ...]:
    """Not a sync link that has a tunnel over it."""
    wires = tuple(one.wire for one in pair.tunnels)
    return tuple(one for one in pair.every_interface if one not in wires)


def _ends(pair: Pair, version: int) -> tuple[Value, ...]:
    """The own addresses of both nodes, each with its interface, so that the table is the same on both. One
    of this node itself is no source of anything that arrives."""
    return tuple(
        concat(interface_name(interface.name), str(address.ip))
        for interface in _links(pair)
        for _, addresses in interface.addresses
        for address in addresses
        if address.version == version
    )
