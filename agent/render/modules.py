# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair file -> modules-load.d file.

Hard facts:
* systemd-sysctl runs once, early, and skips keys that are not there; the nf_conntrack ones are there
  when the module is. systemd-modules-load runs before it.
* Most of these the kernel would load by itself when a rule asks for them. Here they are in before: a
  takeover must not wait for the disk, and may not depend on loading where that is locked after boot.
* A helper is used on the node that has its module, and expectations are replicated, so both nodes have it.
* A module that the kernel has built in, or does not have, costs one line in the log of systemd-modules-load.
"""

from collections.abc import Iterator

from agent.model.pair import Pair
from agent.model.services import HELPERS
from agent.paths import Paths
from agent.render.block import because, text_of
from agent.render.networkd import vlan_of

# in the kernels of both Debian 12 and 13
RULES = (
    "nft_chain_nat",
    "nft_connlimit",
    "nft_ct",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_nat",
    "nft_reject_inet",
)


def render(pair: Pair, node: str, paths: Paths) -> str:
    """A file for /etc/modules-load.d. `paths` is not needed; all renderers are called alike."""
    del paths
    head = because(f"hafw render modules --node {node}: made from the pair file, changes here are lost")
    return text_of(head, *_groups(pair))


def _groups(pair: Pair) -> Iterator[tuple[str, ...]]:
    yield tuple(because("loaded before the settings of nf_conntrack are applied", "nf_conntrack"))
    yield tuple(
        because("conntrackd's and the rules' way into the kernel", "nf_conntrack_netlink", "nf_tables")
    )
    yield tuple(because("what rules need, including future ones", *RULES))
    for helper in pair.helpers:
        yield tuple(because(f"connections that {helper} announces", *HELPERS[helper].modules))
    if any(vlan_of(interface.name) for interface in pair.interfaces):
        yield tuple(because("interfaces of VLANs", "8021q"))
    if pair.tunnels:
        yield tuple(because("tunnels over the sync links", "wireguard"))
