# SPDX-License-Identifier: GPL-2.0-or-later
"""What the supervisor and the inits are told to build: plain values that travel as JSON.

Everything is decided before (services.py); those who carry a plan out add nothing to it. Standard library
only.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

Json = dict[str, Any]  # decoded JSON; from_json() gives it types


@dataclass(frozen=True, slots=True)
class File:
    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Copy:
    """A file of the machine as the node's own, owned by the node's root."""

    source: str
    path: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of the machine, shown read-only."""

    source: str
    path: str


@dataclass(frozen=True, slots=True)
class Sysctl:
    key: str
    value: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A daemon in the foreground. It is up when `ready_socket` accepts a connection or `ready_file` is
    there."""

    name: str
    argv: tuple[str, ...]
    log: str
    """Where its output goes, each line with the time of CLOCK_MONOTONIC."""
    ready_socket: str | None = None
    ready_file: str | None = None
    stale: tuple[str, ...] = ()
    """Files a killed predecessor leaves behind that would stop the next one from starting."""
    restart: bool = False
    timeout_s: float = 10.0
    reloads_limits: bool = False
    """It lowers its limit of real time and raises it again at a reload, which only CAP_SYS_RESOURCE may."""


@dataclass(frozen=True, slots=True)
class Cable:
    """A node's interface, its end in the fabric and the bridge that end is plugged into."""

    name: str
    mac: str
    fabric: str
    fabric_mac: str
    bridge: str


@dataclass(frozen=True, slots=True)
class Bridge:
    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A node that is a qemu machine. Paths are of this machine's files; they are only read."""

    release: str
    kernel: str
    initrd: str
    disk: str
    disk_format: str
    image_key: str
    """Changes when the content of the image does."""
    ssh_key: str
    seed: str
    """What makes this node of the common image: a cpio archive for the end of the initrd, in base64."""
    append: str = ""
    """For the kernel's command line."""
    memory_mb: int = 512
    video: str = ""
    """The screen of a machine with a desktop: qxl or virtio."""
    remote: str = ""
    """The address at which that screen can be reached from the network; empty for nowhere."""
    snapshot: str = ""
    """A disk that has the whole running machine in it, to begin with instead of booting."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    name: str
    firewall: bool
    cables: tuple[Cable, ...] = ()
    network: str = ""
    """Lines for `ip -batch`, inside the node."""
    sysctls: tuple[Sysctl, ...] = ()
    files: tuple[File, ...] = ()
    copies: tuple[Copy, ...] = ()
    binds: tuple[Bind, ...] = ()
    setup: tuple[tuple[str, ...], ...] = ()
    """Commands run once at boot, before the node forwards anything or has a network."""
    services: tuple[Service, ...] = ()
    """In the order in which they start."""
    machine: Machine | None = None
    """None for a node made of namespaces; else only the cables and the names of the services count."""
    host: bool = False
    """It is this machine itself; then only the cables and the lines for `ip` count."""

    def to_json(self) -> Json:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "NodePlan":
        services = [Service(**_tuples(item, "argv", "stale")) for item in data["services"]]
        return NodePlan(
            name=data["name"],
            firewall=data["firewall"],
            cables=tuple(Cable(**item) for item in data["cables"]),
            network=data["network"],
            sysctls=tuple(Sysctl(**item) for item in data["sysctls"]),
            files=tuple(File(**item) for item in data["files"]),
            copies=tuple(Copy(**item) for item in data["copies"]),
            binds=tuple(Bind(**item) for item in data["binds"]),
            setup=tuple(tuple(argv) for argv in data["setup"]),
            services=tuple(services),
            machine=Machine(**data["machine"]) if data["machine"] else None,
            host=data["host"],
        )


def _tuples(item: Mapping[str, Any], *keys: str) -> Json:
    return {**item, **{key: tuple(item[key]) for key in keys}}


@dataclass(frozen=True, slots=True)
class LabPlan:
    name: str
    bridges: tuple[Bridge, ...]
    nodes: tuple[NodePlan, ...]
    vips: tuple[str, ...]
    firewalls: tuple[str, ...]
    """The one that is to be primary first comes first."""
    about: Json
    """What the lab was asked for, for `hafw-lab status` and for a second `hafw-lab up`."""

    def to_json(self) -> Json:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "LabPlan":
        return LabPlan(
            name=data["name"],
            bridges=tuple(Bridge(**item) for item in data["bridges"]),
            nodes=tuple(NodePlan.from_json(item) for item in data["nodes"]),
            vips=tuple(data["vips"]),
            firewalls=tuple(data["firewalls"]),
            about=data["about"],
        )
