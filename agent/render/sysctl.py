# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair file -> sysctl.d file.

Hard facts:
* Writing ip_forward sets redirects and more again on every interface, so it comes first.
* For rp_filter the larger of `all` and the interface's own counts, and Debian sets 2 (loose) on each
  interface; for send_redirects one of the two is enough to switch it on, and `all` is on unless an
  administrator has switched it off; for accept_source_route both must be on. So each interface is named.
* rp_filter drops without a count. The rules check first packets before it, and count them; it is left to
  drop what pretends to belong to a connection.
* At boot systemd-sysctl skips keys that are not there. Those of an interface it writes when udev sees
  the interface, those of nf_conntrack are there because our modules-load.d file comes before.
* A key with slashes is taken as it is; with dots an interface named eth0.100 would be two words.
* nf_conntrack_events is 2 on new kernels: a state that is created without a listener never reports anything,
  not even its end. conntrackd does not listen while it restarts.
* Not here: nf_conntrack_helper, which is 0 since Linux 4.7 and gone since 6.0; nf_conntrack_max and the
  buckets, which belong to the machine's memory, where the kernel's own choice is sound.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent.model.pair import Interface, Pair
from agent.paths import Paths
from agent.render.block import because, text_of


@dataclass(frozen=True, slots=True)
class Setting:
    """`key` is the path below /proc/sys."""

    key: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}"


def settings(pair: Pair) -> tuple[Setting, ...]:
    """What the kernel of a node must be told, in an order that is safe to write."""
    versions = {vip.version for _, vip in pair.vips()}
    return (
        *_forwarding(versions),
        *_conntrack(),
        *(setting for interface in pair.interfaces for setting in _ipv4(interface)),
        *(setting for interface in pair.every_interface for setting in _ipv6(interface)),
        Setting("net/unix/max_dgram_qlen", "512", "hooks run in bursts, and their datagrams must queue"),
    )


def render(pair: Pair, node: str, paths: Paths) -> str:
    """A file for /etc/sysctl.d. `paths` is not needed; all renderers are called alike."""
    del paths
    head = because(f"hafw render sysctl --node {node}: made from the pair file, changes here are lost")
    return text_of(head, *(because(setting.reason, str(setting)) for setting in settings(pair)))


def _forwarding(versions: Collection[int]) -> Iterator[Setting]:
    if 4 in versions:
        yield Setting("net/ipv4/ip_forward", "1", "a firewall forwards")
        yield Setting(
            "net/ipv4/conf/all/send_redirects", "0", "send no redirects past the virtual addresses"
        )
    if 6 in versions:
        yield Setting("net/ipv6/conf/all/forwarding", "1", "a firewall forwards")


def _conntrack() -> Iterator[Setting]:
    prefix = "net/netfilter/nf_conntrack_"
    yield Setting(
        f"{prefix}tcp_loose",
        "0",
        "a packet from the middle of an unknown connection opens none",
    )
    yield Setting(
        f"{prefix}tcp_be_liberal",
        "1",
        "TCP TCP windows are not replicated, so an old one must not make packets invalid",
    )
    yield Setting(f"{prefix}events", "1", "every state reports, also those made while conntrackd restarts")


def _ipv4(interface: Interface) -> Iterator[Setting]:
    prefix = f"net/ipv4/conf/{interface.name}/"
    name = interface.name
    if interface.no_source_check:
        yield Setting(f"{prefix}rp_filter", "0", f"{name}: {interface.no_source_check}")
    else:
        yield Setting(f"{prefix}rp_filter", "1", f"{name}: drop spoofed sources")
    yield Setting(f"{prefix}arp_ignore", "1", f"{name}: answer for addresses of this interface only")
    yield Setting(f"{prefix}arp_announce", "2", f"{name}: ask with an address of this interface only")
    yield Setting(f"{prefix}send_redirects", "0", f"{name}: send no redirects past the virtual address")
    yield Setting(f"{prefix}accept_redirects", "0", f"{name}: accept no routes from others")
    yield Setting(f"{prefix}accept_source_route", "0", f"{name}: no source routing past the rules")


def _ipv6(interface: Interface) -> Iterator[Setting]:
    """Also for a pair without IPv6: a host on the link must not give it a route."""
    prefix = f"net/ipv6/conf/{interface.name}/"
    name = interface.name
    yield Setting(f"{prefix}accept_ra", "0", f"{name}: addresses and routes are those of the pair file")
    yield Setting(f"{prefix}accept_redirects", "0", f"{name}: accept no routes from others")
    yield Setting(
        f"{prefix}keep_addr_on_down", "1", f"{name}: an interface that goes down and up keeps its addresses"
    )
