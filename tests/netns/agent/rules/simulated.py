# SPDX-License-Identifier: GPL-2.0-or-later
"""The path of a packet through a compiled table, by the simulator that `hafw` asks (agent.rules.simulate).

In words as Wire.send has them. The routes are the pair's networks and `routes`, as the model has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from agent.core.roles import RuleSet
from agent.model.pair import IPAddress, IPNetwork, Pair
from agent.rules import simulate as simulator
from agent.rules.compile import compile_pair
from agent.rules.delta import Model, model_of
from agent.rules.objects import Rule
from agent.rules.simulate import Truth, applies, verdict_of
from agent.rules.statements import ACCEPT, Prefix, Translate, Value, Verdict
from tests.netns.wire import ICMP, ICMPV6, Packet


@dataclass(frozen=True, slots=True)
class Simulated:
    pair: Pair
    node: str
    table: Model
    routes: Mapping[IPNetwork, str]

    def fate(self, packet: Packet) -> str:
        """On a primary. The source must live where the packet comes from."""
        first = simulator.Packet(
            iifname=packet.interface,
            saddr=packet.source,
            daddr=packet.target,
            protocol=packet.protocol,
            sport=40_000,
            dport=packet.number,
            ct_state="new",
            translated=Truth.NO,
            asked=packet.target,
            asked_port=packet.number,
        )
        arrived = self._translated(first, "dstnat", "dnat")
        if arrived.daddr in self._own():
            fate = self._fate_in("input", arrived)
            return "self" if fate == "accept" else fate
        leaving = replace(arrived, oifname=self._way(arrived.daddr))
        fate = self._fate_in("forward", leaving)
        if fate != "accept":
            return fate
        left = self._translated(leaving, "srcnat", "snat")
        text = f"{left.oifname}{'' if left.saddr == first.saddr else f' from {left.saddr}'}"
        text += "" if left.daddr == first.daddr else f" to {left.daddr}"
        ported = packet.protocol not in (ICMP, ICMPV6) and left.dport != first.dport
        return text + (f":{left.dport}" if ported else "")

    def _fate_in(self, chain: str, packet: simulator.Packet) -> str:
        verdict = verdict_of(self.table, chain, packet)
        assert verdict is not Verdict.UNKNOWN, f"nobody can say what {chain} does with {packet}"
        return str(verdict.value)

    def _own(self) -> set[IPAddress]:
        every = ((*one.own(self.node), *one.vips) for one in self.pair.interfaces)
        return {address.ip for addresses in every for address in addresses}

    def _way(self, target: IPAddress | None) -> str:
        assert target is not None
        every = {network: one.name for one in self.pair.interfaces for network in one.networks}
        return next(name for network, name in {**every, **self.routes}.items() if target in network)

    def _translated(self, packet: simulator.Packet, chain: str, kind: str) -> simulator.Packet:
        for rule in self.table.rules.get(chain, []):
            *asked, last = rule.statements
            if not all(applies(self.table, one, packet) is Truth.YES for one in asked):
                continue
            if not isinstance(last, Translate):
                assert last == ACCEPT, rule
                return packet
            assert last.kind == kind
            at = "daddr" if kind == "dnat" else "saddr"
            address = _moved(getattr(packet, at), rule, last.address)
            port = last.port if isinstance(last.port, int) else packet.dport
            translated = Truth.YES if kind == "dnat" else packet.translated
            moved: dict[str, Any] = {at: address, "dport": port, "translated": translated}
            return replace(packet, **moved)
        return packet


def _moved(address: IPAddress, rule: Rule, new: Value | None) -> IPAddress:
    match new:
        case str():
            return ip_address(new)
        case Prefix(first, length):
            network: IPv4Network | IPv6Network = ip_network(f"{first}/{length}")
            host = int(address) & ((1 << network.max_prefixlen - length) - 1)
            return type(address)(int(network.network_address) | host)
    raise AssertionError(f"not understood: {rule}")


def simulate(pair: Pair, node: str, routes: Mapping[IPNetwork, str]) -> Simulated:
    return Simulated(pair, node, model_of(compile_pair(pair).objects(RuleSet.PRIMARY)), routes)
