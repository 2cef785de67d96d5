# SPDX-License-Identifier: GPL-2.0-or-later
"""Pair file -> keepalived.conf.

Hard facts (keepalived 2.2.7 and 2.3.3; read in the source, tried with the daemon):
* Only the plain `notify` gets arguments from keepalived: INSTANCE|GROUP NAME STATE PRIORITY, the priority of
  a group being 0. notify_master and its kin get just what is in the configuration (vrrp_notify.c). So
  plain `notify`.
* The first member's INSTANCE notice is the earliest one; the GROUP notice comes when all members are done;
  members that the group has already taken along say nothing. Both are hung in, the hook is only a hint.
* vrrp_rt_priority sets RLIMIT_RTTIME to 10 ms. A vrrp process that computes longer without blocking, as it
  does when it becomes primary on a busy machine, is killed with SIGKILL in the middle of it. Hence the long
  vrrp_rlimit_rttime.
* A weighted track_file of an instance in a sync group is ignored; the group itself has to track it. A file
  that is missing counts as 0, which is our "ready": init_file writes the other value before a node is
  elected. If the directory is missing keepalived says so and continues without the file.
* The first IPv6 address of an instance has to be link-local (RFC 9568); keepalived only grumbles, but hosts
  that take the virtual router as their gateway need one. A link-local VIP is never taken as source of
  advertisements.
* Over IPv6 it sends from the first link-local address that it finds, which the system makes of the hardware
  address or by chance. Only one that is given by mcast_src_ip can be known to the other node's rules. It is
  not looked after: without the address nothing is sent.
* advert_int of VRRPv3 is in hundredths of a second; an unnamed prefix length would be 32 or 128.
"""

from collections.abc import Iterator
from ipaddress import IPv6Interface

from agent.model.pair import Interface, IPInterface, Node, Pair
from agent.paths import Paths
from agent.render.block import Lines, because, block, text_of

RT_PRIORITY = 50
RT_LIMIT_US = 1_000_000
# keepalived takes -254 for a fault
_LARGEST_DEMOTION = 253


def not_ready(pair: Pair) -> int:
    """The (negative) number for the readiness file of a node whose states are not in; a ready node writes 0.

    Just enough to come behind a ready peer: two nodes that are both not ready keep their order, and one that
    is alone runs.
    """
    priorities = [node.priority for node in pair.nodes]
    return -min(max(priorities) - min(priorities) + 1, _LARGEST_DEMOTION)


def instance_name(interface: Interface, version: int) -> str:
    return f"VI_{interface.name}_{version}"


def router_link_local(vrid: int) -> IPv6Interface:
    """The link-local address that belongs to the virtual router's own MAC address, 00:00:5e:00:02:vrid."""
    return IPv6Interface(f"fe80::200:5eff:fe00:{0x200 + vrid:x}/64")


def render(pair: Pair, node: str, paths: Paths) -> str:
    """keepalived.conf for `node`, which must be one of the pair."""
    me = next(one for one in pair.nodes if one.name == node)
    return text_of(
        because(f"hafw render keepalived --node {node}: made from the pair file, changes here are lost"),
        _globals(me),
        _readiness(pair, paths),
        *_advertisers(pair, me),
        _group(pair, paths),
        *(
            _instance(pair, me, interface, version, paths)
            for interface in pair.data_interfaces
            for version in _versions(interface)
        ),
    )


def hook_in(pair: Pair, paths: Paths) -> str:
    """The lines that a keepalived.conf made by hand needs for the agent."""
    hook = f'notify "{paths.hook}"'
    return text_of(
        block("global_defs", ("enable_dbus", "script_user root", "enable_script_security", "# ...")),
        _readiness(pair, paths),
        block(f"vrrp_sync_group {pair.name}", ("# ...", *block("track_file", ("readiness",)), hook)),
        because("the same in every other instance", *block("vrrp_instance NAME", ("# ...", hook))),
    )


def _versions(interface: Interface) -> tuple[int, ...]:
    return tuple(sorted({vip.version for vip in interface.vips}))


def _globals(me: Node) -> Lines:
    return block(
        "global_defs",
        (
            f"router_id {me.name}",
            "vrrp_version 3",
            "enable_dbus",
            *because("the hook runs as root, so only root may be able to write it", "script_user root"),
            "enable_script_security",
            *because(
                "advertisements must go out on time whatever else the machine does",
                f"vrrp_rt_priority {RT_PRIORITY}",
                f"vrrp_rlimit_rttime {RT_LIMIT_US}",
                "vrrp_no_swap",
                "max_auto_priority -1",
            ),
            *because("a switch that lost its table learns the address again", "vrrp_garp_master_refresh 60"),
        ),
    )


def _readiness(pair: Pair, paths: Paths) -> Lines:
    return (
        "# the agent writes 0 when the peer's states are in; until then the peer is preferred",
        *block(
            "track_file readiness", (f'file "{paths.readiness}"', "weight 1", f"init_file {not_ready(pair)}")
        ),
    )


def _advertisers(pair: Pair, me: Node) -> Iterator[Lines]:
    """Here and not among the system's own addresses: a node with this file has the addresses as well."""
    addresses = [
        f"{address}/64 dev {interface.name}"
        for interface in pair.data_interfaces
        if (address := pair.advertiser(me.name, interface)) is not None
    ]
    if addresses:
        known_by = block("static_ipaddress", addresses)
        yield tuple(because("the other node's rules recognize this node by it", *known_by))


def _group(pair: Pair, paths: Paths) -> Lines:
    members = (
        instance_name(interface, version)
        for interface in pair.data_interfaces
        for version in _versions(interface)
    )
    return block(
        f"vrrp_sync_group {pair.name}",
        (*block("group", members), *block("track_file", ("readiness",)), f'notify "{paths.hook}"'),
    )


def _instance(pair: Pair, me: Node, interface: Interface, version: int, paths: Paths) -> Lines:
    source = pair.advertiser(me.name, interface) if version == 6 else None
    vips = (f"{vip} dev {interface.name}" for vip in _addresses(interface, version))
    return block(
        f"vrrp_instance {instance_name(interface, version)}",
        (
            "state BACKUP",
            *(() if pair.failover.preempt else ("nopreempt",)),
            f"interface {interface.name}",
            f"virtual_router_id {interface.vrid}",
            f"priority {me.priority}",
            *((f"mcast_src_ip {source}",) if source else ()),
            f"advert_int {pair.failover.advert_interval_ms / 1000:g}",
            *block("virtual_ipaddress", vips),
            f'notify "{paths.hook}"',
        ),
    )


def _addresses(interface: Interface, version: int) -> Iterator[IPInterface]:
    if version == 6 and interface.vrid is not None:
        yield router_link_local(interface.vrid)
    yield from (vip for vip in interface.vips if vip.version == version)
