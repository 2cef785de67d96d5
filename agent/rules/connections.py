# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the open connections would not be let in any more. Pure.

Rules see only the first packet of a connection, so a new policy changes nothing for those that are there.
Here the first packet is judged again, as the forward or the input hook saw it: behind the translation of its
target, before that of its source. What cannot be judged stays, and so does what this node has begun itself.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import islice

from agent.model.pair import IPAddress
from agent.rules.delta import Model
from agent.rules.simulate import FORBIDDING, Packet, Truth, verdict_of

Ends = tuple[IPAddress, IPAddress, int, int, int]
"""Source, target, protocol and ports."""
ICMP = (1, 58)
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class ConntrackState:
    """One connection. `key` is what names it to the kernel; the reply's source is the true target. `master`
    is the connection that has announced it, by its first packet."""

    family: int
    key: bytes
    saddr: IPAddress
    daddr: IPAddress
    protocol: int
    sport: int
    dport: int
    target: IPAddress
    target_port: int
    expected: bool
    master: Ends | None = None

    @property
    def ends(self) -> Ends:
        """By its first packet."""
        return self.saddr, self.daddr, self.protocol, self.sport, self.dport


@dataclass(frozen=True, slots=True)
class Ways:
    """`routes` by longest prefix first; `own`: the addresses of this node, also those of its broadcasts."""

    routes: tuple[tuple[IPv4Network | IPv6Network, str], ...]
    own: frozenset[IPAddress]

    def find(self, address: IPAddress) -> str | None:
        """The interface that `address` is behind."""
        return next(self._on_the_way(address), None)

    def find_all(self, address: IPAddress) -> tuple[str, ...]:
        """An address of the link may be by each interface that has such a network."""
        of_the_link = address.version == 6 and address.is_link_local
        return tuple(islice(self._on_the_way(address), None if of_the_link else 1))

    def _on_the_way(self, address: IPAddress) -> Iterator[str]:
        for network, name in self.routes:
            if address.version == network.version and address in network:
                yield name


def find_forbidden(table: Model, states: Iterable[ConntrackState], ways: Ways) -> list[ConntrackState]:
    """The connections that `table`, in the role of a primary, would refuse now: the forwarded ones, and
    those to this node. Announced ones (FTP's data) end with the one that has announced them.
    """
    every = list(states)
    known: dict[tuple[str, Packet], bool] = {}
    found = []
    for state in every:
        asked = () if state.expected else tuple(_first_packets(state, ways))
        for one in asked:
            if one not in known:
                known[one] = verdict_of(table, *one) in FORBIDDING
        if asked and all(known[one] for one in asked):
            found.append(state)
    return [*found, *_announced_by(found, every)]


def _announced_by(
    found: Iterable[ConntrackState], every: Iterable[ConntrackState]
) -> Iterator[ConntrackState]:
    """The states that these have announced, and those that they announced in turn."""
    announced: dict[Ends, list[ConntrackState]] = {}
    for state in every:
        if state.expected and state.master:
            announced.setdefault(state.master, []).append(state)
    ending = [state.ends for state in found]
    while ending:
        for state in announced.pop(ending.pop(), ()):
            yield state
            ending.append(state.ends)


def _first_packets(state: ConntrackState, ways: Ways) -> Iterator[tuple[str, Packet]]:
    """With the chain that decides on it; several where its interface of arrival is unknown."""
    if state.saddr in ways.own:
        return
    # nothing of ours forwards to a multicast group or to all hosts
    to_self = state.target in ways.own or state.target.is_multicast or state.target == _BROADCAST
    egress = None if to_self else ways.find(state.target)
    for ingress in ways.find_all(state.saddr):
        if ingress == "lo" or (egress is None and not to_self):
            return
        yield "input" if to_self else "forward", _packet(state, ingress, egress)


def _packet(state: ConntrackState, ingress: str, egress: str | None) -> Packet:
    return Packet(
        iifname=ingress,
        oifname=egress,
        saddr=state.saddr,
        daddr=state.target,
        protocol=state.protocol,
        dport=state.dport if state.protocol in ICMP else state.target_port,
        ct_state="new",
        translated=Truth.NO if state.daddr == state.target else Truth.YES,
        asked=state.daddr,
        asked_port=state.dport,
    )
