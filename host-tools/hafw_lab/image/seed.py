# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes a guest this node: its files, as an archive that the guest's first process copies onto the
disk. Pure. A firewall gets exactly what `hafw setup` and `hafw pair join` write on a user's firewall.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from agent.model.pair import Pair
from agent.paths import Paths
from agent.render import networkd
from agent.setup.plan import plan_setup
from hafw_lab.errors import LabError
from hafw_lab.image import cpio
from hafw_lab.model.options import AgentKind, LabOptions
from hafw_lab.model.topology import Link, NodeKind, NodeSpec, Route, Topology, compute_mac

SEED_DIRECTORY = "seed"
"""Where the first process looks (guest/init)."""
_PATHS = Paths()


@dataclass(frozen=True, slots=True)
class SeedFile:
    path: str
    text: str
    mode: int = 0o644


def make_seed(
    spec: NodeSpec, topology: Topology, options: LabOptions, pair: Pair, text: str, key: str
) -> bytes:
    """An archive to append to the image's initrd. `text` is the pair file that `pair` was read from, `key`
    the one that both nodes have. Raises LabError for options that only namespaces can have."""
    files = plan_files(spec, topology, options, pair, text, key)
    return cpio.pack(cpio.file(SEED_DIRECTORY + one.path, one.text.encode(), one.mode) for one in files)


def plan_files(
    spec: NodeSpec, topology: Topology, options: LabOptions, pair: Pair, text: str, key: str
) -> tuple[SeedFile, ...]:
    firewall = spec.kind is NodeKind.FIREWALL
    if firewall and options.agent is not AgentKind.HAFW:
        raise LabError(
            f"{spec.name} cannot be a machine with --agent {options.agent.value}",
            "the machines' image has the package of hafw in it; use namespaces to compare",
        )
    if firewall:
        return (*_plan_any(spec, topology), *_plan_firewall(spec, options, pair, text, key))
    return (*_plan_any(spec, topology), *_plan_host(spec, topology, options))


def _plan_any(spec: NodeSpec, topology: Topology) -> Iterator[SeedFile]:
    yield SeedFile("/etc/hostname", f"{spec.name}\n")
    # always the same for a name, so that snapshots and journals of one node belong together
    number = hashlib.sha256(f"hafw-lab/{spec.name}".encode()).hexdigest()[:32]
    yield SeedFile("/etc/machine-id", f"{number}\n")
    hosts = [f"{link.addresses[0].ip} {node.name}" for node in topology.nodes for link in node.links[:1]]
    yield SeedFile("/etc/hosts", "\n".join(("127.0.0.1 localhost", "::1 localhost", *hosts, "")))
    for link in spec.links:
        match = f"[Match]\nMACAddress={compute_mac(spec.name, link.name)}\n"
        # a file of our own replaces 99-default.link, which would choose another name
        yield SeedFile(
            f"/etc/systemd/network/10-hafw-lab-{link.name}.link",
            f"{match}\n[Link]\nName={link.name}\nNamePolicy=\n",
        )


def _plan_firewall(
    spec: NodeSpec, options: LabOptions, pair: Pair, text: str, key: str
) -> Iterator[SeedFile]:
    for file in plan_setup(pair, spec.name, _PATHS, [(_PATHS.pair_file.name, text)]):
        yield SeedFile(str(file.path), file.text, file.mode)
    yield SeedFile(str(_PATHS.pair_key), key, 0o600)
    if options.sysctls:
        lines = (f"{key.replace('.', '/')} = {value}\n" for key, value in options.sysctls.items())
        yield SeedFile("/etc/sysctl.d/70-hafw-lab.conf", "".join(lines))
    for link in spec.links:
        routes = _routes_of(link, spec.routes)
        if routes:
            directory = _PATHS.network_dir / f"{networkd.file_name(link.name, 'network')}.d"
            yield SeedFile(str(directory / "hafw-lab.conf"), "\n".join(routes) + "\n")


def _plan_host(spec: NodeSpec, topology: Topology, options: LabOptions) -> Iterator[SeedFile]:
    for link in spec.links:
        routes = spec.routes
        if options.server_route:
            routes += topology.routes_to_clients(topology.segment(link.segment))
        lines = [
            "[Match]",
            f"Name={link.name}",
            "",
            "[Network]",
            *(f"Address={address}" for address in link.addresses),
            "DHCP=no",
            "IPv6AcceptRA=no",
            f"LinkLocalAddressing={'ipv6' if any(one.version == 6 for one in link.addresses) else 'no'}",
            *_routes_of(link, routes),
            "",
        ]
        yield SeedFile(f"/etc/systemd/network/60-hafw-lab-{link.name}.network", "\n".join(lines))


def _routes_of(link: Link, routes: tuple[Route, ...]) -> list[str]:
    """The routes whose gateway is reached by this link."""
    lines = []
    for route in routes:
        if any(route.via in address.network for address in link.addresses):
            lines += ["", "[Route]", f"Destination={route.network}", f"Gateway={route.via}"]
    return lines
