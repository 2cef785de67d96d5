# SPDX-License-Identifier: GPL-2.0-or-later
"""What one may ask of a lab. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from agent.model.pair import SyncMode


class AgentKind(Enum):
    """Who acts when the pair fails over."""

    HAFW = "hafw"
    STOCK = "stock"
    """Debian's primary-backup.sh, NAT, no filter."""
    STOCK_DROP = "stock-drop"
    """The same with an input chain that drops what is not asked for."""
    NONE = "none"
    """No agent: keepalived and conntrackd alone, and NAT."""


@dataclass(frozen=True, slots=True)
class LabOptions:
    """`sysctls` are for the firewalls, after the rendered ones. `server_route`: the server knows the way to
    the clients.

    `restart`: a service that dies is started again, as systemd would; without it a fault stays until heal().
    `policy`: further entries of the pair file's `policy`, in its words.
    `machines`: which nodes are virtual machines, and the release of Debian in each; the others are made of
    namespaces.
    `host`: the node that is this machine itself, if any.
    `desktops`: which of the machines have a screen, and what kind of it: qxl or virtio. `remote`: the
    address of this machine at which the network reaches them; None for nowhere.
    """

    agent: AgentKind = AgentKind.HAFW
    sync: SyncMode = SyncMode.DIRECT
    advert_interval_ms: int = 100
    nat: bool = True
    server_route: bool = False
    preempt: bool = False
    restart: bool = False
    sysctls: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    policy: tuple[Mapping[str, Any], ...] = ()  # as the pair file has it, checked by its parser
    machines: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    host: str | None = None
    desktops: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    remote: str | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "agent": self.agent.value,
            "sync": self.sync.value,
            "advert_interval_ms": self.advert_interval_ms,
            "nat": self.nat,
            "server_route": self.server_route,
            "preempt": self.preempt,
            "restart": self.restart,
            "sysctls": dict(self.sysctls),
            "policy": [dict(entry) for entry in self.policy],
            "machines": dict(self.machines),
            "host": self.host,
            "desktops": dict(self.desktops),
            "remote": self.remote,
        }
