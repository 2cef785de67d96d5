"""Which of the connections that go on would not be let in any more. Pure.

Rules see only the first packet of a connection, so a new policy changes nothing for those that are there.
Here the first packet is judged again, as the forward or the input hook saw it: behind the translation of its
target, before that of its source. What cannot be judged stays, and so does what this node has begun itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from agent.rules.change import Model
from agent.rules.packet import Packet, verdict_of

IPAddress = IPv4Address | IPv6Address
ICMP = (1, 58)
_EVERYBODY = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection. `key` is what names it to the kernel; the reply's source is the true target."""

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


@dataclass(frozen=True, slots=True)
class Ways:
    """`routes` by longest prefix first; `own`: the addresses of this node, also those of its broadcasts."""

    routes: tuple[tuple[IPv4Network | IPv6Network, str], ...]
    own: frozenset[IPAddress]

    def find(self, address: IPAddress) -> str | None:
        """The interface that `address` is behind."""
        for network, name in self.routes:
            if address.version == network.version and address in network:
                return name
        return None


def find_forbidden(table: Model, flows: Iterable[Flow], ways: Ways) -> list[Flow]:
    """The connections that `table`, in the role of a primary, would refuse now: the forwarded ones, and
    those to this node. Announced ones (FTP's data) belong to one that is judged by itself.
    """
    known: dict[tuple[str, Packet], bool] = {}
    found = []
    for flow in flows:
        asked = None if flow.expected else _first_packet(flow, ways)
        if asked is None:
            continue
        if asked not in known:
            known[asked] = verdict_of(table, *asked).verdict in ("drop", "reject")
        if known[asked]:
            found.append(flow)
    return found


def _first_packet(flow: Flow, ways: Ways) -> tuple[str, Packet] | None:
    """With the chain that judges it."""
    if flow.saddr in ways.own:
        return None
    # nothing of ours forwards to a group or to everybody
    to_self = flow.target in ways.own or flow.target.is_multicast or flow.target == _EVERYBODY
    ingress, egress = ways.find(flow.saddr), None if to_self else ways.find(flow.target)
    if ingress is None or ingress == "lo" or (egress is None and not to_self):
        return None
    packet = Packet(
        iifname=ingress,
        oifname=egress,
        saddr=flow.saddr,
        daddr=flow.target,
        protocol=flow.protocol,
        dport=flow.dport if flow.protocol in ICMP else flow.target_port,
        ct_state="new",
        translated=flow.daddr != flow.target,
        asked=flow.daddr,
        asked_port=flow.dport,
    )
    return "input" if to_self else "forward", packet
