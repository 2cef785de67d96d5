# SPDX-License-Identifier: GPL-2.0-or-later
"""The network between the nodes, as lines for `ip -batch`. Pure.

Hard facts
* With IGMP snooping on and a querier near, conntrackd's multicast is not forwarded; forwarding delay and STP
  hold a new port silent for seconds. All three are off.
* A bridge takes the lowest of its ports' hardware addresses unless it is given one.
"""

from collections.abc import Sequence

from hafw_lab.plan.values import Bridge, Cable


def plan_bridges(bridges: Sequence[Bridge]) -> str:
    lines = []
    for bridge in bridges:
        options = "mcast_snooping 0 stp_state 0 forward_delay 0"
        lines.append(f"link add {bridge.name} address {bridge.mac} type bridge {options}")
        lines.append(f"link set {bridge.name} up")
    return "\n".join(lines) + "\n"


def plan_cables(cables: Sequence[Cable], network: int | str) -> str:
    """Plug a node into its bridges; `network` is the pid of its init, or the path of its network
    namespace."""
    lines = []
    for cable in cables:
        peer = f"peer name {cable.name} address {cable.mac} netns {network}"
        lines.append(f"link add {cable.fabric} address {cable.fabric_mac} type veth {peer}")
        lines.append(f"link set {cable.fabric} master {cable.bridge} up")
    return "\n".join(lines) + "\n"


def plan_unplug(cables: Sequence[Cable]) -> str:
    return "".join(f"link del {cable.fabric}\n" for cable in cables)
