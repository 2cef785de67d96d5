# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs on each node of a lab: topology and options -> plan. Firewalls get what a user's firewall gets,
from the same renderers; the stock kinds get the same daemons with Debian's own script hung in.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path

import agent
from agent.config import loader
from agent.errors import HafwError
from agent.model.pair import Pair
from agent.paths import Paths
from agent.render import conntrackd, keepalived, sysctl
from hafw_lab.compose import pair_file
from hafw_lab.compose.dbus_policy import compose_bus_config
from hafw_lab.errors import LabError
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology import NodeKind, NodeSpec, Topology, compute_mac, fabric_name
from hafw_lab.plan.host_link import with_host
from hafw_lab.plan.values import Bind, Bridge, Cable, Copy, File, LabPlan, NodePlan, Service, Sysctl

AGENT_CODE = Path(agent.__file__).resolve().parent
"""Of the checkout or of the installed package, whichever this program runs from."""
STOCK_SCRIPT = Path("/usr/share/doc/conntrackd/examples/sync/primary-backup.sh")
KEEPALIVED_BUILD = Path("/etc/keepalived/keepalived.config-opts")
"""How it was built; keepalived 2.3.3 of Debian 13 does not start without it, 2.2.7 has none."""
BUS, CONNTRACKD, CHANNEL, AGENT, KEEPALIVED = "bus", "conntrackd", "channel", "agent", "keepalived"

_PATHS = Paths()
READINESS = _PATHS.readiness
"""0 in it: the agent has the peer's states."""

_LAUNCHER = """#!/bin/sh
PYTHONPATH=/usr/share/hafw-agent exec /usr/bin/python3 -P -m agent "$@"
"""
_BUS_CONFIG = "/etc/dbus-1/hafw-lab.conf"
_STOCK_HOOK = "/etc/conntrackd/primary-backup.sh"
_NFT_FILE = "/etc/nftables.conf"
_BOOT_FILE = "/usr/share/hafw-agent/boot.nft"
"""What hafw-boot.service loads on a firewall: nothing is forwarded before the agent has loaded its rules."""
_KEEPALIVED_POLICIES = (
    "/usr/share/dbus-1/system.d/org.keepalived.Vrrp1.conf",
    "/etc/dbus-1/system.d/org.keepalived.Vrrp1.conf",
)
_BUS_ITSELF = tuple(
    f'send_destination="org.freedesktop.DBus" send_interface="{interface}"'
    for interface in (
        "org.freedesktop.DBus",
        "org.freedesktop.DBus.Introspectable",
        "org.freedesktop.DBus.Properties",
    )
)


def plan_lab(
    name: str, topology: Topology, options: LabOptions, *, privileged: bool, key: str = ""
) -> LabPlan:
    """`key`: of the pair; without one its agents do not talk to each other. Raises LabError when the
    options and the topology do not make a working pair."""
    topology = with_host(topology, options.host)
    if options.host is not None and not privileged:
        hint = "use sudo, or leave --host out"
        raise LabError(f"only root can plug this machine into a lab as {options.host}", hint)
    text = pair_file.compose(topology, options)
    try:
        pair = loader.parse(text, "the lab's pair file")
    except HafwError as error:
        raise LabError(str(error)) from error
    return LabPlan(
        name=name,
        bridges=tuple(Bridge(one.name, compute_mac("fabric", one.name)) for one in topology.segments),
        nodes=tuple(
            _plan_node(spec, topology, options, pair, text, key, privileged) for spec in topology.nodes
        ),
        vips=tuple(str(vip.ip) for vip in topology.vips),
        firewalls=tuple(node.name for node in topology.firewalls),
        about=options.to_json(),
    )


def _plan_node(
    spec: NodeSpec,
    topology: Topology,
    options: LabOptions,
    pair: Pair,
    text: str,
    key: str,
    privileged: bool,
) -> NodePlan:
    firewall, host = spec.kind is NodeKind.FIREWALL, spec.name == options.host
    plan = NodePlan(
        name=spec.name,
        firewall=firewall,
        cables=tuple(_cable(spec.name, link.name, link.segment) for link in spec.links),
        network="\n".join((*_network(spec, topology, options), "")),
        files=() if host else (_hosts(topology), File("/etc/hostname", spec.name + "\n")),
        host=host,
    )
    return _add_firewall(plan, options, pair, text, key, privileged) if firewall else plan


def _cable(node: str, link: str, segment: str) -> Cable:
    name = fabric_name(node, link)
    return Cable(link, compute_mac(node, link), name, compute_mac("fabric", name), segment)


def _network(spec: NodeSpec, topology: Topology, options: LabOptions) -> Iterator[str]:
    if spec.name != options.host:
        yield "link set lo up"
    for link in spec.links:
        for address in link.addresses:
            # No other host has the address, and duplicate detection would delay it by a second.
            yield f"addr add {address} dev {link.name}" + (" nodad" if address.version == 6 else "")
        yield f"link set {link.name} up"
    routes = list(spec.routes)
    if options.server_route and spec.kind is NodeKind.HOST:
        for link in spec.links:
            routes += topology.routes_to_clients(topology.segment(link.segment))
    yield from (f"route add {route.network} via {route.via}" for route in routes)


def _hosts(topology: Topology) -> File:
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{link.addresses[0].ip} {node.name}" for node in topology.nodes for link in node.links[:1]]
    return File("/etc/hosts", "\n".join(lines) + "\n")


# -- firewalls --


def _add_firewall(
    plan: NodePlan, options: LabOptions, pair: Pair, text: str, key: str, privileged: bool
) -> NodePlan:
    stock = options.agent is not AgentKind.HAFW
    vrrp = keepalived.render(pair, plan.name, _PATHS)
    files = [
        *plan.files,
        File(str(_PATHS.pair_file), text),
        File(str(_PATHS.keepalived_config), hang_in(vrrp, options.agent) if stock else vrrp),
        File(
            str(_PATHS.conntrackd_config), conntrackd.render(pair, plan.name, _PATHS, privileged=privileged)
        ),
        File("/etc/sysctl.d/60-hafw.conf", sysctl.render(pair, plan.name, _PATHS)),
        File(_BUS_CONFIG, compose_bus_config(str(_PATHS.system_bus), _BUS_ITSELF, _KEEPALIVED_POLICIES)),
        File("/usr/sbin/hafw", _LAUNCHER, 0o755),
    ]
    if stock:
        files.append(File(_NFT_FILE, stock_rules(pair, options.agent)))
    if key:
        files.append(File(str(_PATHS.pair_key), key, 0o600))
    return replace(
        plan,
        files=tuple(files),
        copies=tuple(_copies(options.agent)),
        binds=(Bind(str(AGENT_CODE), "/usr/share/hafw-agent/agent"),),
        sysctls=tuple(_sysctls(pair, options)),
        setup=(("nft", "-f", _NFT_FILE if stock else _BOOT_FILE),),
        services=tuple(_services(options)),
    )


def _sysctls(pair: Pair, options: LabOptions) -> Iterator[Sysctl]:
    for setting in sysctl.settings(pair):
        yield Sysctl(setting.key, setting.value)
    for key, value in options.sysctls.items():
        yield Sysctl(key.replace(".", "/"), value)


def _copies(agent: AgentKind) -> Iterator[Copy]:
    yield Copy(str(AGENT_CODE / "notify/hook.py"), str(_PATHS.hook), 0o755)
    if agent is AgentKind.HAFW:
        yield Copy(str(_find_boot_policy()), _BOOT_FILE)
    if KEEPALIVED_BUILD.exists():
        yield Copy(str(KEEPALIVED_BUILD), str(KEEPALIVED_BUILD))
    if agent in (AgentKind.STOCK, AgentKind.STOCK_DROP):
        if not STOCK_SCRIPT.exists():
            hint = "dpkg may be told to leave documentation out (path-exclude); reinstall conntrackd with it"
            raise LabError(f"Debian's script {STOCK_SCRIPT} is not there", hint)
        yield Copy(str(STOCK_SCRIPT), _STOCK_HOOK, 0o755)


def _find_boot_policy() -> Path:
    """Of the checkout, of the installed package or of what pip has installed, as AGENT_CODE is."""
    places = (AGENT_CODE.parent / "systemd", AGENT_CODE.parent, AGENT_CODE)
    return next(place / "boot.nft" for place in places if (place / "boot.nft").exists())


def _services(options: LabOptions) -> Iterator[Service]:
    daemon = (
        "/usr/bin/dbus-daemon",
        f"--config-file={_BUS_CONFIG}",
        "--nofork",
        "--nopidfile",
        "--nosyslog",
    )
    bus = str(_PATHS.system_bus)
    yield Service(BUS, daemon, "/var/log/bus.log", ready_socket=bus, stale=(bus,), restart=options.restart)
    yield Service(
        CONNTRACKD,
        (str(_PATHS.conntrackd), "-C", str(_PATHS.conntrackd_config)),
        "/var/log/conntrackd.out",
        ready_file=str(_PATHS.conntrackd_socket),
        stale=(str(_PATHS.conntrackd_lock), str(_PATHS.conntrackd_socket)),
        restart=options.restart,
    )
    if options.agent is AgentKind.HAFW:
        yield Service(
            CHANNEL,
            ("/usr/sbin/hafw", "channel"),
            "/var/log/channel.log",
            ready_file=str(_PATHS.channel_socket),
            stale=(str(_PATHS.channel_socket),),
            restart=options.restart,
        )
        yield Service(
            AGENT,
            ("/usr/sbin/hafw", "agent"),
            "/var/log/agent.log",
            ready_socket=str(_PATHS.control_socket),
            restart=options.restart,
        )
    yield Service(
        KEEPALIVED,
        (
            *("/usr/sbin/keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp"),
            *("--use-file", str(_PATHS.keepalived_config)),
            *("--pid", str(_PATHS.keepalived_pid), "--vrrp_pid", str(_PATHS.vrrp_pid)),
        ),
        "/var/log/keepalived.log",
        ready_file=str(_PATHS.vrrp_pid),
        stale=(str(_PATHS.keepalived_pid), str(_PATHS.vrrp_pid)),
        restart=options.restart,
        reloads_limits=True,
    )


# -- without our agent --


def hang_in(vrrp: str, agent: AgentKind) -> str:
    """The rendered keepalived.conf with Debian's script, or nothing, in the place of our hook and readiness
    file."""
    text = re.sub(r"^[ \t]*(#[^\n]*readiness|# the agent writes)[^\n]*\n", "", vrrp, flags=re.MULTILINE)
    text = re.sub(r"^[ \t]*(vrrp_)?track_file\b[^{\n]*\{[^}]*\}\n", "", text, flags=re.MULTILINE)
    text = re.sub(rf'^[ \t]*notify "{re.escape(str(_PATHS.hook))}"\n', "", text, flags=re.MULTILINE)
    if str(_PATHS.hook) in text or "track_file" in text:
        raise LabError(
            "the rendered keepalived.conf has changed its form, so the lab cannot hang the stock script in"
        )
    if agent is AgentKind.NONE:
        return text
    states = {"master": "primary", "backup": "backup", "fault": "fault"}
    lines = "".join(f'    notify_{state} "{_STOCK_HOOK} {word}"\n' for state, word in states.items())
    group = re.compile(r"^(vrrp_sync_group [^{\n]*\{\n)", re.MULTILINE)
    if len(group.findall(text)) != 1:
        raise LabError("the rendered keepalived.conf has no single sync group to hang the stock script in")
    return group.sub(lambda found: found.group(1) + lines, text)


_STOCK_INPUT = """table inet filter {{
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname lo accept
        ct state established,related accept
        ip protocol vrrp accept
        meta l4proto {{ icmp, ipv6-icmp }} accept
        iifname "{sync}" accept
    }}
}}
"""


def stock_rules(pair: Pair, agent: AgentKind) -> str:
    """What the usual instructions load: NAT, and with `stock-drop` an input chain that drops."""
    lines = []
    for nat in pair.nat:
        for source in pair.in_zone(nat.from_zone):
            for target in pair.in_zone(nat.to_zone):
                for vip in target.vips:
                    family = "ip" if isinstance(vip, IPv4Interface) else "ip6"
                    for network in (one for one in source.networks if one.version == vip.version):
                        match = f'oifname "{target.name}" {family} saddr {network}'
                        lines.append(f"        {match} snat {family} to {vip.ip}")
    chain = "        type nat hook postrouting priority srcnat; policy accept;"
    text = "\n".join(("table inet nat {", "    chain postrouting {", chain, *lines, "    }", "}", ""))
    if agent is AgentKind.STOCK_DROP:
        text += _STOCK_INPUT.format(sync=pair.sync_links[0])
    return text
