# SPDX-License-Identifier: GPL-2.0-or-later
"""The services of a firewall as units of the guest's systemd. Pure."""

import shlex
import signal
from collections.abc import Mapping, Sequence

from hafw_lab.errors import LabError
from hafw_lab.wire import Message

UNITS = {
    "bus": "dbus.service",
    "conntrackd": "conntrackd.service",
    "channel": "hafw-channel.service",
    "agent": "hafw-agent.service",
    "keepalived": "keepalived.service",
}


_PROPERTIES = ("MainPID", "ActiveState", "ExecMainStatus", "ExecMainExitTimestampMonotonic")
_UP = ("active", "reloading", "deactivating")
"""A unit that is activating may have a process already, which has not yet said that it is up."""


def unit_of(service: str) -> str:
    """Raises LabError for a service that a machine does not have."""
    if service not in UNITS:
        raise LabError(f"there is no service {service!r} here (services: {', '.join(UNITS)})")
    return UNITS[service]


def plan_order(op: str, fields: Mapping[str, object]) -> str:
    """Shell commands. `start` returns when the unit is up, `stop` when its main process is gone."""
    unit = shlex.quote(unit_of(str(fields["service"])))
    if op == "start":
        return f"systemctl start {unit}"
    name = signal.Signals(int(str(fields["signal"]))).name
    if op == "stop":
        ended = "" if name == "SIGTERM" else f"systemctl kill --signal={name} --kill-who=main {unit} && "
        return f"{ended}systemctl stop {unit}"
    if op == "signal":
        who = "all" if fields["every"] else "main"
        return f"systemctl kill --signal={name} --kill-who={who} {unit}"
    raise LabError(f"unknown request {op!r}")


def plan_status(services: Sequence[str]) -> str:
    count = "cat /proc/sys/net/netfilter/nf_conntrack_count 2>/dev/null || echo -1"
    if not services:
        return count
    units = " ".join(unit_of(service) for service in services)
    return f"{count}\nsystemctl show --property={','.join(_PROPERTIES)} {units}"


def parse_status(text: str, services: Sequence[str]) -> Message:
    """What plan_status() printed, as a node's init would say it."""
    first, _, rest = text.partition("\n")
    found = {}
    for service, block in zip(services, rest.strip().split("\n\n"), strict=False):
        facts = dict(line.partition("=")[::2] for line in block.splitlines())
        pid = int(facts.get("MainPID", "0")) if facts.get("ActiveState") in _UP else 0
        ran = facts.get("ExecMainExitTimestampMonotonic", "0") not in ("", "0")
        found[service] = {"pid": pid or None, "exit": int(facts["ExecMainStatus"]) if ran else None}
    count = int(first)
    return {"services": found, "conntrack": count if count >= 0 else None}
