"""Which of the connections that go on would not be let in any more. Pure.

Rules see only the first packet of a connection, so a new policy changes nothing for those that are there.
Here the first packet is judged again, as the forward hook saw it: behind the translation of its target,
before that of its source. What cannot be judged stays.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from agent.rules.change import Model
from agent.rules.packet import Packet, verdict_of

IPAddress = IPv4Address | IPv6Address
ICMP = (1, 58)


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
    """`routes` by longest prefix first; `own`: the addresses of this node."""

    routes: tuple[tuple[IPv4Network | IPv6Network, str], ...]
    own: frozenset[IPAddress]

    def find(self, address: IPAddress) -> str | None:
        """The interface that `address` is behind."""
        for network, name in self.routes:
            if address.version == network.version and address in network:
                return name
        return None


def find_forbidden(table: Model, flows: Iterable[Flow], ways: Ways) -> list[Flow]:
    """The forwarded connections that the chain `forward` of `table`, in the role of a primary, would refuse
    now. Announced ones (FTP's data) belong to one that is judged by itself."""
    known: dict[Packet, bool] = {}
    found = []
    for flow in flows:
        packet = None if flow.expected else _first_packet(flow, ways)
        if packet is None:
            continue
        if packet not in known:
            known[packet] = verdict_of(table, "forward", packet).verdict in ("drop", "reject")
        if known[packet]:
            found.append(flow)
    return found


def _first_packet(flow: Flow, ways: Ways) -> Packet | None:
    if flow.saddr in ways.own or flow.target in ways.own:
        return None
    ingress, egress = ways.find(flow.saddr), ways.find(flow.target)
    if ingress is None or egress is None or ingress == "lo":
        return None
    return Packet(
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
